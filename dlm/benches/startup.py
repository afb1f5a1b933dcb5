"""From a command to its first update, measured from outside: cold (no compiled code, no tokens), warm, and commands that only tell.

python -m dlm.bench startup [--config=RECIPE:args] [--config.FIELD=VALUE] [--repeats=N] [--json]
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.config import load_recipe
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place

RECIPE = "configs/quickstart.py:objective=masked"
LIMITS = dict(cold=20.0, warm=10.0, help=0.6, print_config=0.6)  # seconds, on 2 cores
FLAGS = [
    Flag("config", "recipe file with its arguments", default=RECIPE, type=Place),
    Flag("repeats", "rounds of cold, warm and the rest", default=1, type=int),
    Flag("json", "print one JSON object on stdout", type=bool),
]


def main(argv: list[str] | None = None) -> None:
    args, overrides = cli.parse(__doc__, FLAGS, argv, ("config",))
    results = measure(args.config, overrides, args.repeats)
    say(table(results))
    if args.json:
        cli.emit(results)


def measure(target: str, overrides: list[tuple[str, str]], repeats: int) -> dict:
    """Seconds until the first update is done, cold and then warm, and until --help and --print_config are."""
    if repeats < 1:
        raise UserError(f"--repeats={repeats} must be at least 1")
    load_recipe(target)  # a mistake in it is told before anything is started
    recipe = [f"--config={target}", *(f"--{dotted}={text}" for dotted, text in overrides)]
    seconds = dict(cold=[], warm=[], help=[], print_config=[])
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            for kind in ("cold", "warm"):
                seconds[kind].append(_first_update(recipe, Path(folder), kind))
        for kind, words in dict(help=["--help"], print_config=[*recipe, "--print_config"]).items():
            began = time.perf_counter()
            subprocess.run(
                _command(words), env=_environment(None), check=True, stdout=subprocess.DEVNULL
            )
            seconds[kind].append(time.perf_counter() - began)
    return dict(
        config=target,
        **{kind: benches.spread(values) for kind, values in seconds.items()},
        limits=LIMITS,
    )


def table(results: dict) -> str:
    rows = dict(
        cold="first update, cold",
        warm="first update, warm",
        help="--help",
        print_config="--print_config",
    )
    return "start-up of " + "\n".join(
        [
            results["config"],
            *(
                f"  {name:<20} {benches.formatted(results[kind])} s, limit {LIMITS[kind]:g} s"
                for kind, name in rows.items()
            ),
        ]
    )


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "dlm.train", *words]


def _environment(folder: Path | None) -> dict[str, str]:
    """Ours, with empty caches in `folder` for compiled code and for tokens."""
    root = str(Path(__file__).parents[2])
    env = dict(
        os.environ, PYTHONPATH=os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    )
    if folder is not None:
        env |= dict(
            JAX_COMPILATION_CACHE_DIR=str(folder / "compiled"),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        )
        env |= dict(DLM_CACHE=str(folder / "tokens"))
    return env


def _first_update(recipe: list[str], folder: Path, kind: str) -> float:
    words = [*recipe, "--config.steps=2", f"--workdir={folder / kind}"]
    began, said, seconds = time.perf_counter(), [], None
    with subprocess.Popen(
        _command(words), env=_environment(folder), stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stderr:
            said.append(line)
            if seconds is None and line.startswith("first update done"):
                seconds = time.perf_counter() - began
    if process.returncode or seconds is None:
        cause = said[-1].strip().removeprefix("error: ") if said else "it said nothing"
        raise UserError(f"{json.dumps(' '.join(words))} did not reach its first update: {cause}")
    return seconds
