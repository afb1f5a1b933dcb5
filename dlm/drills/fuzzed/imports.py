"""Mutated imports, in every layout: config.json, the index and the headers of the tensors. Each is converted, or refused in one line."""

import contextlib
import copy
import io
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dlm.app import hf_import
from dlm.core import files
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.drills.fuzzed import ACCEPTED, REFUSED
from dlm.drills.fuzzed.configs import LONGEST, ODD, mutated
from dlm.hf import keys, recipe, shards, weights
from dlm.hf.layouts import LAYOUTS, Layout
from dlm.text import bpe_bytes, pretrained

ROWS, END, MASK = 300, 256, 257
TINY = dict(  # ours → what every layout that has the key says
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
SAME = ("dense", "sparse")  # lists of layers that may say the same in several ways


def cases(seed: int, count: int, folder: Path) -> Iterator[tuple[str, str]]:
    """Yields (mutation, outcome) of `count` mutated folders of tiny models; three in four have another config.json."""
    made = {name: publish(Path(folder) / name, layout) for name, layout in LAYOUTS.items()}
    for n in range(count):
        rng = random.Random(f"{seed} {n}")
        name = rng.choice(sorted(made))
        case = Path(folder) / "case"
        shutil.copytree(Path(folder) / name, case)
        if rng.random() < 0.75:
            config, done = another(made[name], rng)
            files.write(case / recipe.CONFIG, text := json.dumps(config, default=str))
            config = json.loads(text)
        else:
            config, done = made[name], damage(case, rng)
        yield (
            f"{name} {done}",
            judged(case, Path(folder) / "run", LAYOUTS[name], made[name], config),
        )
        shutil.rmtree(case)


def publish(folder: Path, layout: Layout) -> dict:
    """Writes a tiny model of random numbers in a layout; returns its config.json."""
    folder.mkdir(parents=True)
    tree = dict(
        version="1.0",
        pre_tokenizer=dict(
            type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=True
        ),
    )
    tree |= dict(
        decoder=dict(type="ByteLevel"),
        model=dict(type="BPE", vocab=bpe_bytes.alphabet(), merges=[]),
    )
    tree |= dict(
        added_tokens=[
            dict(id=END, content="<|endoftext|>", special=True),
            dict(id=MASK, content="<|mask|>", special=True),
        ]
    )
    files.write(folder / pretrained.FILE, json.dumps(tree))
    config = dict(
        architectures=[layout.architecture],
        model_type=layout.kind,
        eos_token_id=END,
        mask_token_id=MASK,
    )
    config |= {
        layout.keys[name].split("|")[0]: value
        for name, value in TINY.items()
        if name in layout.keys
    }
    config |= {
        key: allowed[0] for key, allowed in layout.required.items() if allowed[0] is not None
    }
    files.write(folder / recipe.CONFIG, json.dumps(config))
    nn = build_run(read(folder, layout, config), least=0).nn
    leaves, rng = weights.leaves(layout, nn), np.random.default_rng(0)
    planned = {
        name: (np.dtype(np.float32), (ROWS, *leaf.part[1:]) if "V" in leaf.letters else leaf.part)
        for leaf in leaves
        for name in leaf.parts
    }
    with shards.Writer(folder, planned, 20_000) as out:
        for name, (_, shape) in planned.items():
            out.put(name, rng.normal(size=shape))
    return config


def read(folder: Path, layout: Layout, config: dict) -> dict:
    """The recipe of what a folder says."""
    return recipe.recipe(
        folder, config, layout, "float32", recipe.ends(folder, config, END, {*range(END + 2)})
    )


def another(config: dict, rng: random.Random) -> tuple[dict, str]:
    """A config.json with one to three mutations, or with a key more."""
    if rng.random() < 0.6:
        return mutated(config, rng)
    key, value = (
        rng.choice(STRANGE),
        copy.deepcopy(
            rng.choice(
                (*ODD, 1, 1.0, 2.5, "linear", dict(rope_theta=5.0), dict(type="linear", factor=2))
            )
        ),
    )
    return config | {key: value}, f"add config.{key}={value!r}"


def damage(folder: Path, rng: random.Random) -> str:
    """Changes the index, or the header of a file; returns what it did."""
    index = folder / shards.INDEX
    told = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    name = rng.choice(sorted(told))
    path = folder / told[name]
    kind = rng.choice(("cut", "flip", "rename", "retype", "unlist", "mislist", "index"))
    if kind == "cut":
        path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size)])
    elif kind in ("unlist", "mislist"):
        changed = (
            told | {name: rng.choice(sorted({*told.values()} - {told[name]} | {"x"}))}
            if kind == "mislist"
            else dict(told)
        )
        changed if kind == "mislist" else changed.pop(name)
        files.write(index, json.dumps(dict(weight_map=changed)))
    elif kind == "index":
        files.write(index, json.dumps(dict(weight_map=rng.choice(ODD)), default=str))
    else:
        body = path.read_bytes()
        end = 8 + int.from_bytes(body[:8], "little")
        header = bytearray(body[8:end])
        if kind == "flip":
            header[rng.randrange(len(header))] = rng.randrange(32, 127)
        else:
            tree = json.loads(header)
            place = rng.choice([key for key in tree if key != "__metadata__"])
            if kind == "rename":
                tree[place[:-1]] = tree.pop(place)
            else:
                tree[place][rng.choice(("dtype", "shape", "data_offsets"))] = rng.choice(ODD)
            header = json.dumps(tree, default=str).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + bytes(header) + body[end:])
        name = f"{name} in {path.name}"
    return f"{kind} {name}"


def judged(folder: Path, target: Path, layout: Layout, before: dict, after: dict) -> str:
    """Whether a folder is converted, or refused in one line with nothing left behind; or what is wrong with the answer."""
    began, stamps = time.perf_counter(), _stamps(folder)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            hf_import.from_hf(folder, target)
        outcome = passed_over(folder, layout, before, after) or ACCEPTED
    except UserError as error:
        outcome = (
            REFUSED if "\n" not in str(error) else f"refused in several lines: {str(error)[:300]!r}"
        )
        if left := [
            path.name for path in target.parent.iterdir() if path.name.startswith(target.name)
        ]:
            outcome = f"refused, and left {left} behind: {str(error)[:300]!r}"
    except Exception as error:
        outcome = f"traceback: {type(error).__name__}: {str(error)[:300]}"
    if target.exists():
        shutil.rmtree(target)
    if _stamps(folder) != stamps:
        return f"harmed the published folder, {outcome}"
    seconds = time.perf_counter() - began
    return outcome if seconds < LONGEST else f"slow: {seconds:.0f} s, {outcome}"


def _stamps(folder: Path) -> dict:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


def passed_over(folder: Path, layout: Layout, before: dict, after: dict) -> str:
    """What an accepted config.json says otherwise than before without another recipe, and may not; '' where there is nothing."""
    if read(folder, layout, before) != read(folder, layout, after):
        return ""
    allowed = (
        {layout.keys[name] for name in SAME if name in layout.keys}
        | keys.HARMLESS
        | layout.harmless
    )
    changed = {
        key: value
        for key, value in after.items()
        if key not in allowed and value is not None and value != before.get(key)
    }
    for key, value in changed.items():
        if (
            value not in layout.required[key]
            if key in layout.required
            else not keys.neutral(key, value)
        ):
            return f"passed over {key}={value!r}"
    return ""
