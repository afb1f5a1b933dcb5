"""Converts published weights to a run directory, and a run back to published weights.

python -m dlm.convert from_hf DIR --workdir=runs/x [--ignore=KEY,…] [--config.data.length=512 …]
                      [--json]
python -m dlm.convert to_hf   DIR --workdir=runs/x [--step=N] [--architecture=Qwen3ForCausalLM]
                      [--dtype=bfloat16] [--shard=5] [--json]

A published folder has a config.json, weights in safetensors and a tokenizer.
"""

import sys
import time
from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place

_IGNORE_HELP = (
    "from_hf: keys of config.json, separated by commas, to read as if they were absent"
)
_ARCHITECTURE_HELP = (
    "to_hf: the layout (default: that of the folder the run was imported from, "
    "else the first that can hold the network)"
)
_DTYPE_HELP = "to_hf: float32 or bfloat16 (default: as the weights are stored)"
FLAGS = [
    Flag(
        "workdir",
        "run directory: a new one for from_hf, the one to read for to_hf",
        required=True,
        type=Place,
    ),
    Flag("step", "to_hf: the checkpoint (default: the newest)", type=int),
    Flag("ignore", _IGNORE_HELP),
    Flag("architecture", _ARCHITECTURE_HELP),
    Flag("dtype", _DTYPE_HELP, choices=("float32", "bfloat16")),
    Flag("shard", "to_hf: gigabytes of a file, at most", default=5.0, type=float),
    Flag("json", "print one JSON object on stdout at the end", type=bool),
]


def main(argv: list[str] | None = None) -> None:
    # The command line is `from_hf DIR` or `to_hf DIR`, then flags.
    words = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(words):
        cli.parse(__doc__, FLAGS, words, ("config",))
    way, *rest = words or [""]
    if way not in ("from_hf", "to_hf") or not rest or rest[0].startswith("--"):
        raise UserError("expected from_hf DIR or to_hf DIR; --help tells more")
    args, overrides = cli.parse(__doc__, FLAGS, rest[1:], ("config",))

    # Timed from here: the rest is reading and writing.
    begin = time.perf_counter()
    folder = Path(cli.typed("DIR", Place, rest[0]))
    workdir = Path(args.workdir)
    # Modules that load JAX are imported late: a wrong flag need not wait for them.
    if way == "from_hf":
        from dlm.app import hf_import

        ignore = tuple(args.ignore.split(",")) if args.ignore else ()
        facts = hf_import.from_hf(folder, workdir, overrides, ignore)
    else:
        # A flag that would have no effect is a mistake.
        _refuse_flags_of_from_hf(args.ignore, overrides)
        if args.shard <= 0:
            raise UserError(f"--shard={args.shard} must be positive")
        from dlm.app import hf_export

        facts = hf_export.to_hf(
            folder,
            workdir,
            step=args.step,
            architecture=args.architecture,
            dtype=args.dtype,
            largest=int(args.shard * 1e9),
        )
    facts["seconds"] = round(time.perf_counter() - begin, 2)
    say(f"{facts['bytes'] / 1e9:.2f} GB in {facts['seconds']} s")
    if args.json:
        cli.emit(facts)


def _refuse_flags_of_from_hf(ignore: str | None, overrides: list) -> None:
    if overrides:
        raise UserError(f"--{overrides[0][0]} is for from_hf")
    if ignore:
        raise UserError("--ignore is for from_hf")


if __name__ == "__main__":
    cli.main(main)
