"""Imports a published folder (config.json, safetensors, tokenizer) as a run directory."""

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dlm.core import files
from dlm.core.config import override
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.run import Run, build_run
from dlm.hf import keys, layouts, recipe, shards, weights
from dlm.hf.layouts import Layout
from dlm.hf.shards import Tensor
from dlm.hf.weights import Leaf
from dlm.runs import directory
from dlm.runs import weights as run_weights
from dlm.text import pretrained

# In a run directory: the small files of the published folder, and what a checkpoint does not
# record of its tensors.
ORIGINAL = "hf"
DTYPES, IGNORED = "dtypes.json", "ignored.json"
# Everything but weights and code.
_SUFFIXES = (".json", ".txt", ".jinja")
_SMALL = 100_000_000  # bytes of a file beside the weights
_REPORT_EVERY = 10  # seconds

Overrides = Iterable[tuple[str, Any]]


def check_free(folder: Path) -> None:
    """Raises UserError unless the folder is empty or absent."""
    occupied = folder.exists()
    if folder.is_dir():
        occupied = any(folder.iterdir())
    if occupied:
        raise UserError(
            f"{folder} is there already: choose an empty or a new directory"
        )


def from_hf(
    folder: Path,
    workdir: Path,
    overrides: Overrides = (),
    ignore: tuple[str, ...] = (),
) -> dict:
    """Imports a published folder as a run directory and returns the facts for --json.

    Writes nothing before everything has been checked, and `workdir` appears when it is complete.
    Keys of config.json to `ignore` are read as if they were absent, here and by `to_hf`, which
    writes them unchanged.
    """
    check_free(workdir)
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}: weights are not downloaded here; "
            "get the model first and name its folder"
        )
    # 1. Read what the folder has, but for the numbers.
    path = folder / recipe.CONFIG
    config = recipe.config(folder)
    tensors = shards.tensors(folder)
    layout = layouts.of(config, path)
    config = keys.without(config, ignore, path)
    ends = _ends(folder, config)

    # 2. Build the run that it describes.
    dtype = _compute_dtype(tensors)
    plain = recipe.recipe(folder, config, layout, dtype, ends)
    _untie(plain, weights.own_head(layout, tensors))
    _override(plain, overrides)
    run = build_run(plain, least=0)

    # 3. Every parameter must have its tensors, and every tensor its parameter.
    leaves = _leaves(layout, run, tensors, folder)
    dtypes = _check(leaves, layout, run, tensors, folder)

    # 4. Write, and report.
    tokenizer = run.text.fit(())
    notes = {DTYPES: _by_name(dtypes), IGNORED: list(ignore)}
    with files.whole_folder(workdir) as partial:
        size = _write_weights(partial, weights.streams(leaves, tensors))
        _copy_small_files(folder, partial / ORIGINAL, notes)
        directory.create(partial, run, tokenizer)
        directory.write_config(partial, run)
    _report_ends(tokenizer.vocab.ends, ends)
    parameters = f"{run.nn.parameters:,} parameters, {len(dtypes)} tensors"
    say(f"{workdir}: {layout.architecture} of {parameters}")
    facts = dict(workdir=str(workdir), bytes=size, tensors=len(dtypes))
    return facts | dict(architecture=layout.architecture, parameters=run.nn.parameters)


def _ends(folder: Path, config: dict) -> dict[str, list[int]]:
    """Returns the ids that end a text, by the file that names them."""
    tokens = pretrained.read(folder)
    return recipe.ends(folder, config, tokens.own_eos, tokens.ids)


def _compute_dtype(tensors: dict[str, Tensor]) -> str:
    """Returns float32 where the first matrix is stored so, else bfloat16."""
    matrices = [tensor for tensor in tensors.values() if len(tensor.shape) > 1]
    if matrices and matrices[0].dtype.name != "float32":
        return "bfloat16"
    return "float32"


def _untie(recipe: dict, head: str | None) -> None:
    """Gives the network an unembedding of its own where the files have one (`head`)."""
    if head is None or recipe["nn"]["embeddings"] != "tied":
        return
    say(
        f"{head} is another tensor than the embedding, which config.json ties to it: "
        "nn.embeddings=untied, so that it is kept"
    )
    recipe["nn"]["embeddings"] = "untied"


def _override(recipe: dict, overrides: Overrides) -> None:
    for dotted, value in overrides:
        if dotted.startswith("config.text"):
            raise UserError(
                f"--{dotted}: the tokenizer is the model's own; "
                "everything but config.text may be set"
            )
        override(recipe, dotted.removeprefix("config."), value)


def _leaves(
    layout: Layout,
    run: Run,
    tensors: dict[str, Tensor],
    folder: Path,
) -> list[Leaf]:
    # A config.json of absurdly many layers must not fill the memory with their names.
    nn = run.nn
    least = max(nn.layers, nn.expert_layers * nn.experts.count)
    if least > len(tensors):
        raise UserError(
            f"{folder} lacks tensors: it has {len(tensors)} in all, "
            f"and {recipe.CONFIG} asks for more layers or experts"
        )
    return weights.leaves(layout, nn)


def _check(
    leaves: list[Leaf],
    layout: Layout,
    run: Run,
    tensors: dict[str, Tensor],
    folder: Path,
) -> dict[str, np.dtype]:
    """Checks names, shapes and dtypes; returns the dtypes of the tensors."""
    # A file may store a tied unembedding a second time.
    spare = None
    if run.nn.embeddings == "tied":
        spare = layout.tensors.top["unembed_VD"][0]
    rows = run.text.published.rows
    return weights.check(leaves, tensors, spare, rows, folder)


def _report_ends(ends: Iterable[int], by_file: dict[str, list]) -> None:
    sources = [f"{name} says {_ids(ids)}" for name, ids in by_file.items()]
    say(f"a text ends at {_ids(ends)} ({'; '.join(sources) or 'by name'})")


def _ids(ids: Iterable[int]) -> str:
    return " and ".join(map(str, ids))


def _write_weights(folder: Path, params: dict) -> int:
    """Writes the checkpoint of update 0; returns the bytes of its arrays."""
    leaves = jax.tree.leaves(params)
    total = sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)
    # A large model takes minutes: the progress is printed.
    written, reported = 0, 0.0

    def report(count: int) -> None:
        nonlocal written, reported
        written += count
        now = time.monotonic()
        if now - reported > _REPORT_EVERY:
            reported = now
            say(f"{written / 1e9:.1f} of {total / 1e9:.1f} GB")

    run_weights.write(folder, 0, params, report)
    return written


def _copy_small_files(source: Path, target: Path, notes: dict[str, Any]) -> None:
    """Copies the files beside the weights, which `to_hf` writes again, and adds our notes."""
    target.mkdir()
    for path in source.iterdir():
        if not path.is_file() or path.suffix not in _SUFFIXES:
            continue
        # The index belongs to the weights, which may be divided otherwise on the way back.
        if path.stat().st_size < _SMALL and path.name != shards.INDEX:
            shutil.copyfile(path, target / path.name)
    for name, note in notes.items():
        text = json.dumps(note, indent=1) + "\n"
        (target / name).write_text(text, encoding="utf-8")


def _by_name(dtypes: dict[str, np.dtype]) -> dict[str, str]:
    """Returns the most frequent dtype under '', and the tensors that have another."""
    # Nearly all tensors have the same dtype, so the others are few.
    frequency = Counter(dtype.name for dtype in dtypes.values())
    usual = frequency.most_common(1)[0][0]
    by_name = {"": usual}
    for name, dtype in dtypes.items():
        if dtype.name != usual:
            by_name[name] = dtype.name
    return by_name
