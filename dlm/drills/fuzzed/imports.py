"""Mutated imports of published weights, in every layout: config.json, index and tensor headers.

Each is converted, or refused in one line.
"""

import contextlib
import copy
import io
import json
import random
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from dlm.app import hf_import
from dlm.core import files
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.drills.fuzzed import ACCEPTED, REFUSED, Cases
from dlm.drills.fuzzed.configs import LONGEST, ODD, mutated
from dlm.hf import keys, recipe, shards, weights
from dlm.hf.layouts import LAYOUTS, Layout
from dlm.text import bpe_bytes, pretrained

ROWS, END, MASK = 300, 256, 257
FILE_BYTES = 20_000  # several files for each model
# A tiny network, by the names of Layout.keys.
TINY: dict[str, Any] = dict(
    layers=2,
    width=16,
    heads=4,
    kv_heads=2,
    head_size=4,
    ffn=24,
    vocab=ROWS,
    tied=False,
    epsilon=1e-5,
    length=64,
    base=1000.0,
    number=4,
    active=2,
    expert=24,
    shared=24,
    renormalised=True,
    dense=[],
    every=1,
    sparse=[1, 1],
    block=4,
)
# Keys that change predictions in some layout, and their values.
STRANGE = (
    "softcap",
    "use_alibi",
    "rope_parameters",
    "rope_scaling",
    "layer_types",
    "head_dim",
    "tie_word_embeddings",
    *keys.NEUTRAL,
)
STRANGE_VALUES = (
    *ODD,
    1,
    1.0,
    2.5,
    "linear",
    dict(rope_theta=5.0),
    dict(type="linear", factor=2),
)
DAMAGES = ("cut", "flip", "rename", "retype", "unlist", "mislist", "index")
SAME = ("dense", "sparse")  # lists of layers that may say the same in several ways


def cases(seed: int, count: int, folder: Path) -> Cases:
    """Yields (mutation, outcome) of `count` mutated folders of tiny models.

    Three in four have another config.json.
    """
    folder = Path(folder)
    # One tiny model for each layout, copied for every case.
    configs = {}
    for name, layout in LAYOUTS.items():
        configs[name] = publish(folder / name, layout)
    for n in range(count):
        rng = random.Random(f"{seed} {n}")
        name = rng.choice(sorted(configs))
        before = configs[name]
        case = folder / "case"
        shutil.copytree(folder / name, case)
        if rng.random() < 0.75:
            config, mutation = another(before, rng)
            # As it will be read: JSON has no tuples and no bytes.
            text = json.dumps(config, default=str)
            files.write(case / recipe.CONFIG, text)
            after = json.loads(text)
        else:
            after, mutation = before, damage(case, rng)
        outcome = judged(case, folder / "run", LAYOUTS[name], before, after)
        yield f"{name} {mutation}", outcome
        shutil.rmtree(case)


# ------------------------------------------------------------------------------------ a tiny model


def publish(folder: Path, layout: Layout) -> dict:
    """Writes a tiny model of random numbers in a layout; returns its config.json."""
    folder.mkdir(parents=True)
    files.write(folder / pretrained.FILE, json.dumps(_tokenizer()))
    config = _config(layout)
    files.write(folder / recipe.CONFIG, json.dumps(config))

    nn = build_run(read(folder, layout, config), least=0).nn
    plan: shards.Plan = {}
    for leaf in weights.leaves(layout, nn):
        shape = leaf.stored_shape(ROWS)
        plan |= dict.fromkeys(leaf.parts, (np.dtype(np.float32), shape))
    # The numbers do not matter, only their shapes.
    rng = np.random.default_rng(0)
    with shards.Writer(folder, plan, FILE_BYTES) as writer:
        for name, (_, shape) in plan.items():
            writer.put(name, rng.normal(size=shape))
    return config


def _tokenizer() -> dict:
    """Returns a tokenizer.json of single bytes."""
    # Every byte is a piece, so that any text has ids.
    pre_tokenizer = dict(
        type="ByteLevel",
        add_prefix_space=False,
        trim_offsets=True,
        use_regex=True,
    )
    vocab = bpe_bytes.alphabet()
    end = dict(id=END, content="<|endoftext|>", special=True)
    mask = dict(id=MASK, content="<|mask|>", special=True)
    return dict(
        version="1.0",
        pre_tokenizer=pre_tokenizer,
        decoder=dict(type="ByteLevel"),
        model=dict(type="BPE", vocab=vocab, merges=[]),
        added_tokens=[end, mask],
    )


def _config(layout: Layout) -> dict[str, Any]:
    config: dict[str, Any] = dict(
        architectures=[layout.architecture],
        model_type=layout.kind,
        eos_token_id=END,
        mask_token_id=MASK,
    )
    for name, value in TINY.items():
        if name in layout.keys:
            config[layout.keys[name].split("|")[0]] = value
    for key, allowed in layout.required.items():
        if allowed[0] is not None:
            config[key] = allowed[0]
    return config


def read(folder: Path, layout: Layout, config: dict) -> dict:
    """Returns the recipe that a folder describes."""
    # The ids of all bytes, and the two special ones.
    known = set(range(END + 2))
    ends = recipe.ends(folder, config, END, known)
    return recipe.recipe(folder, config, layout, "float32", ends)


# -------------------------------------------------------------------------------------- mutations


def another(config: dict, rng: random.Random) -> tuple[dict, str]:
    """Returns a config.json with one to three mutations, or with one more key."""
    if rng.random() < 0.6:
        return mutated(config, rng)
    key = rng.choice(STRANGE)
    value = copy.deepcopy(rng.choice(STRANGE_VALUES))
    return config | {key: value}, f"add config.{key}={value!r}"


def damage(folder: Path, rng: random.Random) -> str:
    """Changes the index, or the header of a file; returns a description."""
    index = folder / shards.INDEX
    # A damage is in the index or in the header of a file, or it cuts the file.
    weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    name = rng.choice(sorted(weight_map))
    path = folder / weight_map[name]
    kind = rng.choice(DAMAGES)
    match kind:
        case "cut":
            length = rng.randrange(path.stat().st_size)
            path.write_bytes(path.read_bytes()[:length])
        case "unlist":
            del weight_map[name]
            _write_index(index, weight_map)
        case "mislist":
            others = set(weight_map.values()) - {weight_map[name]}
            weight_map[name] = rng.choice(sorted(others | {"x"}))
            _write_index(index, weight_map)
        case "index":
            _write_index(index, rng.choice(ODD))
        case _:
            _damage_header(path, kind, rng)
            name = f"{name} in {path.name}"
    return f"{kind} {name}"


def _write_index(index: Path, weight_map: Any) -> None:
    files.write(index, json.dumps(dict(weight_map=weight_map), default=str))


def _damage_header(path: Path, kind: str, rng: random.Random) -> None:
    body = path.read_bytes()
    # A header's length is its first eight bytes.
    end = 8 + int.from_bytes(body[:8], "little")
    header = bytearray(body[8:end])
    if kind == "flip":
        header[rng.randrange(len(header))] = rng.randrange(32, 127)
    else:
        tree = json.loads(header)
        name = rng.choice([key for key in tree if key != "__metadata__"])
        if kind == "rename":
            tree[name[:-1]] = tree.pop(name)
        else:
            value, field = (
                rng.choice(ODD),
                rng.choice(("dtype", "shape", "data_offsets")),
            )
            tree[name][field] = value
        header = bytearray(json.dumps(tree, default=str).encode())
    path.write_bytes(len(header).to_bytes(8, "little") + header + body[end:])


# --------------------------------------------------------------------------------------- outcomes


def judged(
    folder: Path,
    target: Path,
    layout: Layout,
    before: dict,
    after: dict,
) -> str:
    """Returns the outcome of an import: converted, refused with nothing left behind, or a fault.

    Args:
        folder: the published folder.
        target: the run directory to write; it is removed again.
        layout: the architecture of the folder.
        before: the config.json that is right.
        after: the config.json in the folder.
    """
    # Sizes and times show whether a file was touched.
    began, stamps = time.perf_counter(), _stamps(folder)
    outcome = _imported(folder, target, layout, before, after)
    if target.exists():
        shutil.rmtree(target)
    if _stamps(folder) != stamps:
        return f"harmed the published folder, {outcome}"
    seconds = time.perf_counter() - began
    if seconds < LONGEST:
        return outcome
    return f"slow: {seconds:.0f} s, {outcome}"


def _imported(
    folder: Path,
    target: Path,
    layout: Layout,
    before: dict,
    after: dict,
) -> str:
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            hf_import.from_hf(folder, target)
        return passed_over(folder, layout, before, after) or ACCEPTED
    except UserError as error:
        text = repr(str(error)[:300])
        # The folder in progress has a name that begins with the target's.
        names = [path.name for path in target.parent.iterdir()]
        left = [name for name in names if name.startswith(target.name)]
        if left:
            return f"refused, and left {left} behind: {text}"
        return f"refused in several lines: {text}" if "\n" in str(error) else REFUSED
    except Exception as error:
        return f"traceback: {type(error).__name__}: {str(error)[:300]}"


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    stamps = {}
    for path in folder.iterdir():
        status = path.stat()
        stamps[path.name] = status.st_size, status.st_mtime_ns
    return stamps


def passed_over(folder: Path, layout: Layout, before: dict, after: dict) -> str:
    """Describes a key of an accepted config.json that changed no recipe although it should; or ''.

    Such a key was ignored in silence.
    """
    if read(folder, layout, before) != read(folder, layout, after):
        return ""
    # Keys that may change without another network.
    harmless = keys.HARMLESS | layout.harmless
    harmless |= {layout.keys[name] for name in SAME if name in layout.keys}
    for key, value in after.items():
        unchanged = value is None or value == before.get(key)
        if key in harmless or unchanged:
            continue
        if key in layout.required:
            right = value in layout.required[key]
        else:
            right = keys.neutral(key, value)
        if not right:
            return f"passed over {key}={value!r}"
    return ""
