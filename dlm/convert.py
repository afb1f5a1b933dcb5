"""Weights from the world and to it: a published folder (config.json, safetensors, tokenizer) becomes a run directory, and back.

python -m dlm.convert from_hf DIR --workdir=runs/x [--ignore=KEY,…] [--config.data.length=512 …] [--json]
python -m dlm.convert to_hf   DIR --workdir=runs/x [--step=N] [--architecture=Qwen3ForCausalLM] [--dtype=bfloat16] [--shard=5] [--json]
"""

import json
import math
import shutil
import sys
import time
from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core import files
from dlm.core.config import override
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place, nearest
from dlm.core.run import Run, build_run
from dlm.text import pretrained, tokenizer_tree

FLAGS = [
    Flag(
        "workdir",
        "run directory: a new one for from_hf, the one to read for to_hf",
        required=True,
        type=Place,
    ),
    Flag("step", "to_hf: the checkpoint (default: the newest)", type=int),
    Flag(
        "ignore",
        "from_hf: keys of config.json, separated by commas, that are to be read as if they were not there",
    ),
    Flag(
        "architecture",
        "to_hf: the layout (default: that of the folder it came from, else the first that can hold the network)",
    ),
    Flag(
        "dtype",
        "to_hf: float32 or bfloat16 (default: as the weights are stored)",
        choices=("float32", "bfloat16"),
    ),
    Flag("shard", "to_hf: gigabytes of a file, at most", default=5.0, type=float),
    Flag("json", "print one JSON object on stdout at the end", type=bool),
]
KEPT = "hf"  # in a run directory: the small files of the folder it came from, and what a checkpoint cannot tell of its tensors
DTYPES, IGNORED = "dtypes.json", "ignored.json"
_SMALL = 100_000_000  # bytes of a file beside the weights


def main(argv: list[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        cli.parse(__doc__, FLAGS, words, ("config",))
    if words[:1] not in (["from_hf"], ["to_hf"]) or len(words) < 2 or words[1].startswith("--"):
        raise UserError("expected from_hf DIR or to_hf DIR; --help tells more")
    args, overrides = cli.parse(__doc__, FLAGS, words[2:], ("config",))
    begin, (way, folder) = time.perf_counter(), (words[0], Path(cli.typed("DIR", Place, words[1])))
    if way == "from_hf":
        found = from_hf(
            folder,
            Path(args.workdir),
            overrides,
            tuple(args.ignore.split(",")) if args.ignore else (),
        )
    else:
        if overrides or args.ignore:
            raise UserError(f"--{overrides[0][0] if overrides else 'ignore'} is for from_hf")
        if args.shard <= 0:
            raise UserError(f"--shard={args.shard} must be positive")
        found = to_hf(
            folder,
            Path(args.workdir),
            args.step,
            args.architecture,
            args.dtype,
            int(args.shard * 1e9),
        )
    found |= dict(seconds=round(time.perf_counter() - begin, 2))
    say(f"{found['bytes'] / 1e9:.2f} GB in {found['seconds']} s")
    if args.json:
        cli.emit(found)


def _free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already: choose an empty or a new directory")


# ---------------------------------------------------------------------------------------------------------------- from_hf


def from_hf(folder: Path, workdir: Path, overrides=(), ignore: tuple[str, ...] = ()) -> dict:
    """Nothing is written before everything has been checked, and nothing is at `workdir` before everything is written.

    Keys of config.json to `ignore` are read as if they were not there, here and when it goes out again, unchanged, by `to_hf`.
    """
    from dlm.hf import keys, layouts, recipe, shards, weights

    _free(workdir)
    if not folder.is_dir():
        raise UserError(
            f"no folder {folder}: weights are not downloaded here; get the model first and name its folder"
        )
    config, tensors = recipe.config(folder), shards.tensors(folder)
    layout = layouts.of(config, folder / recipe.CONFIG)
    config = keys.without(config, ignore, folder / recipe.CONFIG)
    stored = next((t.dtype.name for t in tensors.values() if len(t.shape) > 1), "float32")
    text = pretrained.read(folder)
    ends = recipe.ends(folder, config, text.own_eos, text.ids)
    made = recipe.recipe(
        folder, config, layout, "float32" if stored == "float32" else "bfloat16", ends
    )
    head = weights.own_head(layout, tensors)
    if head and made["nn"]["embeddings"] == "tied":
        say(
            f"{head} is another tensor than the embedding, which {recipe.CONFIG} ties to it: nn.embeddings=untied, so that it is kept"
        )
        made["nn"]["embeddings"] = "untied"
    for dotted, value in overrides:
        if dotted.startswith("config.text"):
            raise UserError(
                f"--{dotted}: the tokenizer is the model's own; everything but config.text may be set"
            )
        override(made, dotted.removeprefix("config."), value)
    run = build_run(made, least=0)
    if max(run.nn.layers, run.nn.expert_layers * run.nn.experts.number) > len(
        tensors
    ):  # before the names of so many are made
        raise UserError(
            f"{folder} lacks tensors: it has {len(tensors)} in all, and {recipe.CONFIG} asks for more layers or experts"
        )
    leaves = weights.leaves(layout, run.nn)
    spare = layout.tensors.top["unembed_VD"][0] if run.nn.embeddings == "tied" else None
    dtypes = weights.check(leaves, tensors, spare, run.text.published.rows, folder)
    tokenizer = run.text.fit(())
    with files.whole_folder(workdir) as partial:
        notes = {DTYPES: _odd(dtypes), IGNORED: list(ignore)}
        size = _write(partial, run, tokenizer, weights.streams(leaves, tensors), folder, notes)
    say(
        f"a text ends at {_ids(tokenizer.vocab.ends)} ({'; '.join(f'{name} says {_ids(ids)}' for name, ids in ends.items()) or 'by name'})"
    )
    say(
        f"{workdir}: {layout.architecture} of {run.nn.parameters:,} parameters, {len(dtypes)} tensors"
    )
    return dict(
        workdir=str(workdir),
        architecture=layout.architecture,
        parameters=run.nn.parameters,
        tensors=len(dtypes),
        bytes=size,
    )


def _ids(ids) -> str:
    return " and ".join(map(str, ids))


def _write(folder: Path, run: Run, tokenizer, params: dict, came: Path, notes: dict) -> int:
    """A whole run directory of no updates; the bytes of its weights."""
    import jax

    from dlm.hf import shards
    from dlm.runs import directory, weights

    done, shown = 0, 0.0
    total = sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(params))

    def summary(count: int) -> None:
        nonlocal done, shown
        done += count
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            say(f"{done / 1e9:.1f} of {total / 1e9:.1f} GB")

    weights.write(folder, 0, params, summary)
    (folder / KEPT).mkdir()
    for path in came.iterdir():
        if (
            path.is_file()
            and path.suffix in (".json", ".txt", ".jinja")
            and path.stat().st_size < _SMALL
            and path.name != shards.INDEX
        ):
            shutil.copyfile(path, folder / KEPT / path.name)
    for name, note in notes.items():
        (folder / KEPT / name).write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    directory.create(folder, run, tokenizer)
    directory.write_config(folder, run)
    return done


def _odd(dtypes: dict) -> dict:
    """The names of the dtypes of tensors: the usual one under '', and those that have another."""
    from collections import Counter

    usual = Counter(d.name for d in dtypes.values()).most_common(1)[0][0]
    return {"": usual} | {name: d.name for name, d in dtypes.items() if d.name != usual}


# ------------------------------------------------------------------------------------------------------------------ to_hf


def to_hf(
    folder: Path,
    workdir: Path,
    step: int | None,
    architecture: str | None,
    dtype: str | None,
    largest: int,
) -> dict:
    """The parameters that evaluation uses; where they came from elsewhere, one part in memory at a time, else one of ours."""
    import ml_dtypes
    import numpy as np

    from dlm.hf import shards, weights
    from dlm.runs import checkpoint, directory
    from dlm.runs import weights as run_weights

    _free(folder)
    run = directory.run_of(workdir)
    step = checkpoint.intact(workdir, say, step)
    if step is None:
        raise UserError(f"{workdir} has no finished checkpoint yet")
    came = workdir / KEPT
    kept, kinds = (
        json.loads((came / name).read_text(encoding="utf-8")) if came.exists() else {}
        for name in ("config.json", DTYPES)
    )
    ignored = (
        json.loads((came / IGNORED).read_text(encoding="utf-8"))
        if (came / IGNORED).exists()
        else []
    )
    layout, config = _layout(run, kept, architecture, ignored)
    stored, leaves = run_weights.stored(workdir, step), weights.leaves(layout, run.nn)
    tree = next(iter(stored))[0]
    named = dict(
        float32=np.dtype(np.float32),
        bfloat16=np.dtype(ml_dtypes.bfloat16),
        float16=np.dtype(np.float16),
        float64=np.dtype(np.float64),
    )
    rows, planned = config.get(layout.keys["vocab"]), {}
    for leaf in leaves:
        shape = (rows, *leaf.part[1:]) if "V" in leaf.letters else leaf.part
        for name in leaf.parts:
            kind = dtype or kinds.get(name) or kinds.get("") or stored[tree, *leaf.path][1].name
            planned[name] = named[kind], shape
    say(f"{workdir}, update {step}: {layout.architecture}, {len(planned)} tensors")
    with files.whole_folder(folder) as partial:
        with shards.Writer(partial, planned, largest) as out:
            for leaf in leaves:
                parts = run_weights.parts(
                    workdir, step, (tree, *leaf.path), list(leaf.parts.values())
                )
                for name, part in zip(leaf.parts, parts, strict=True):
                    out.put(name, leaf.back(part)[: planned[name][1][0]])
        _small(partial, run, workdir, rows)
        dtypes_field = {key: dtype for key in ("torch_dtype", "dtype") if key in config} or dict(
            torch_dtype=dtype
        )
        files.write(
            partial / "config.json",
            json.dumps(config | dtypes_field if dtype else config, indent=2) + "\n",
        )
    size = sum(int(np.prod(shape)) * kind.itemsize for kind, shape in planned.values())
    return dict(
        folder=str(folder),
        architecture=layout.architecture,
        parameters=run.nn.parameters,
        tensors=len(planned),
        bytes=size,
    )


def _small(folder: Path, run: Run, workdir: Path, rows: int) -> None:
    """The files beside the weights: those that the run came with, else its tokenizer without what only we read in it."""
    if (workdir / KEPT).exists():
        for path in (workdir / KEPT).iterdir():
            if path.name not in (DTYPES, IGNORED):
                shutil.copyfile(path, folder / path.name)
        return
    run.text.restore(workdir).save(folder)
    if (path := folder / pretrained.FILE).exists():
        tree = json.loads(path.read_text(encoding="utf-8"))
        plain = [
            {
                k: v
                for k, v in token.items()
                if k not in (tokenizer_tree.OURS, tokenizer_tree.OUTSIDE)
            }
            for token in tree["added_tokens"]
        ]
        tree["added_tokens"] = [token for token in plain if token["id"] < rows]
        path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")


def _layout(run: Run, kept: dict, architecture: str | None, ignored: list[str] = ()):
    """(the layout, its config.json) that hold the run's network: reading them again, less what was `ignored`, gives it."""
    from dlm.hf import keys, layouts, writing

    if architecture and architecture not in layouts.LAYOUTS:
        known = layouts.LAYOUTS
        raise UserError(
            f"--architecture={architecture} is unknown{nearest(architecture, known)}; known are {', '.join(known)}"
        )
    came = layouts.of(kept, KEPT) if kept else None
    tried = (
        [layouts.LAYOUTS[architecture]]
        if architecture
        else ([came] if came else []) + list(layouts.LAYOUTS.values())
    )
    wrong = {}
    for layout in tried:
        own = layout is came
        config = writing.described(layout, run, kept if own else {})
        read = keys.without(config, ignored) if own else config
        wrong[layout.architecture] = writing.misfit(
            layout, run, read, own, bool(architecture) or own
        )
        if not wrong[layout.architecture]:
            return layout, config
    reasons = "; ".join(
        f"{name} {why}"
        for name, why in wrong.items()
        if architecture or name == (came or tried[0]).architecture
    )
    raise UserError(
        f"no published layout holds this network ({reasons}); --architecture says which one is wanted"
    )


if __name__ == "__main__":
    cli.main(main)
