"""Exports a run as a published folder: config.json, safetensors, tokenizer."""

import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dlm.app.hf_import import DTYPES, IGNORED, ORIGINAL, check_free
from dlm.core import files
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import nearest
from dlm.core.run import Run
from dlm.hf import keys, layouts, shards, weights, writing
from dlm.hf.layouts import Layout
from dlm.hf.shards import Plan
from dlm.hf.weights import Leaf
from dlm.runs import checkpoint, directory
from dlm.runs import weights as run_weights
from dlm.text import pretrained, tokenizer_tree


def to_hf(
    folder: Path,
    workdir: Path,
    step: int | None,
    architecture: str | None,
    dtype: str | None,
    largest: int,
) -> dict:
    """Exports a run's weights, those that evaluation uses; returns the facts for --json.

    Holds one part of a parameter in memory at a time.

    Args:
        folder: the published folder to write.
        workdir: the run directory.
        step: the checkpoint; None: the newest.
        architecture: the layout; None: that of the import, else the first that fits.
        dtype: of all tensors; None: as stored.
        largest: bytes of one file.
    """
    check_free(folder)
    run = directory.run_of(workdir)
    step = checkpoint.intact(workdir, say, step)
    if step is None:
        raise UserError(f"{workdir} has no finished checkpoint yet")
    # An imported run is written as it came, as far as its weights allow.
    original = _note(workdir, "config.json", {})
    ignored = _note(workdir, IGNORED, [])
    layout, config = find_layout(run, original, architecture, ignored)
    rows = config[layout.keys["vocab"]]

    # Decide names, dtypes and shapes before anything is read.
    leaves = weights.leaves(layout, run.nn)
    parameters = _Parameters(workdir, step)
    plan = parameters.plan(leaves, rows, dtype)
    say(f"{workdir}, update {step}: {layout.architecture}, {len(plan)} tensors")
    with files.whole_folder(folder) as partial:
        parameters.write(partial, leaves, plan, largest)
        _write_small_files(partial, run, workdir, rows)
        _write_config(partial, config, dtype)
    # The header and the small files do not count.
    sizes = [math.prod(shape) * kind.itemsize for kind, shape in plan.values()]
    return dict(
        folder=str(folder),
        architecture=layout.architecture,
        parameters=run.nn.parameters,
        tensors=len(plan),
        bytes=sum(sizes),
    )


def _note(workdir: Path, name: str, default: Any) -> Any:
    """Reads a JSON file that an import left; `default` in a run of our own."""
    path = workdir / ORIGINAL / name
    if not path.exists():
        return default
    return json.loads(path.read_text(encoding="utf-8"))


class _Parameters:
    """The parameters of a checkpoint: of the averaged weights where there are any."""

    def __init__(self, workdir: Path, step: int):

        self._workdir = workdir
        self._step = step
        self._stored = run_weights.stored(workdir, step)
        self._tree = next(iter(self._stored))[0]  # all their paths begin with it

    def plan(
        self,
        leaves: list[Leaf],
        rows: int,
        dtype: str | None,
    ) -> Plan:
        """Decides the dtype and shape of every tensor: as published, unless `dtype` is set."""
        published = _note(self._workdir, DTYPES, {})
        plan = {}
        for leaf in leaves:
            _, stored = self._stored[self._tree, *leaf.path]
            for name in leaf.parts:
                kind = dtype or published.get(name) or published.get("") or stored.name
                plan[name] = _numpy_dtype(kind), leaf.stored_shape(rows)
        return plan

    def write(
        self,
        folder: Path,
        leaves: list[Leaf],
        plan: Plan,
        largest: int,
    ) -> None:

        with shards.Writer(folder, plan, largest) as writer:
            for leaf in leaves:
                path = self._tree, *leaf.path
                indices = list(leaf.parts.values())
                parts = run_weights.parts(self._workdir, self._step, path, indices)
                for name, part in zip(leaf.parts, parts, strict=True):
                    # Rows that were appended to the embedding are left out.
                    _, shape = plan[name]
                    writer.put(name, leaf.back(part)[: shape[0]])


def _numpy_dtype(name: str) -> np.dtype:

    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def _write_config(folder: Path, config: dict, dtype: str | None) -> None:
    """Writes config.json, with the dtype of the tensors under the key that the file has for it."""
    if dtype:
        # transformers 5 has renamed torch_dtype to dtype.
        keys = [key for key in ("torch_dtype", "dtype") if key in config]
        config = config | dict.fromkeys(keys or ["torch_dtype"], dtype)
    files.write(folder / "config.json", json.dumps(config, indent=2) + "\n")


def _write_small_files(folder: Path, run: Run, workdir: Path, rows: int) -> None:
    """Writes the files of the import, else the run's tokenizer without what only we read in it."""
    original = workdir / ORIGINAL
    if original.exists():
        for path in original.iterdir():
            if path.name not in (DTYPES, IGNORED):
                shutil.copyfile(path, folder / path.name)
        return
    # A tokenizer that was learned here.
    run.text.restore(workdir).save(folder)
    path = folder / pretrained.FILE
    if path.exists():
        tokenizer = json.loads(path.read_text(encoding="utf-8"))
        tokens = [_plain_token(token) for token in tokenizer["added_tokens"]]
        # Ids without a row in the embedding would be out of its range elsewhere.
        tokenizer["added_tokens"] = [token for token in tokens if token["id"] < rows]
        path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


def _plain_token(token: dict) -> dict:
    ours = (tokenizer_tree.OURS, tokenizer_tree.OUTSIDE)
    return {key: value for key, value in token.items() if key not in ours}


def find_layout(
    run: Run,
    original: dict,
    architecture: str | None,
    ignored: Iterable[str] = (),
) -> tuple[Layout, dict]:
    """Finds a layout that holds the run's network, and its config.json.

    Reading that file again, without the keys that were `ignored`, gives the network. `original` is
    the config.json of the import, {} where there is none.
    """
    known = layouts.LAYOUTS
    if architecture and architecture not in known:
        near = nearest(architecture, known)
        text = f"is unknown{near}; known are {', '.join(known)}"
        raise UserError(f"--architecture={architecture} {text}")
    imported = layouts.of(original, ORIGINAL) if original else None
    # In the order of preference.
    candidates = list(known.values())
    if imported:
        candidates = [imported, *candidates]
    if architecture:
        candidates = [known[architecture]]

    reasons = {}
    for layout in candidates:
        own = layout is imported
        config = writing.described(layout, run, original if own else {})
        readable = keys.without(config, ignored) if own else config
        any_objective = own or bool(architecture)
        reason = writing.misfit(layout, run, readable, own, any_objective)
        if not reason:
            return layout, config
        reasons[layout.architecture] = reason

    # Only the reason of the likeliest one: those of all would be many lines.
    likeliest = candidates[0].architecture
    raise UserError(
        f"no published layout holds this network ({likeliest} {reasons[likeliest]}); "
        "--architecture says which one is wanted"
    )
