"""Measures start-up from outside: the first update cold and warm, and commands that only print.

python -m dlm.bench startup [--config=RECIPE:args] [--config.FIELD=VALUE] [--repeats=N] [--json]

Cold is without compiled code and encoded documents, warm with both.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from dlm import benches
from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.config import load_recipe
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Place

RECIPE = "configs/quickstart.py:objective=masked"
# Seconds, on 2 cores.
LIMITS = dict(
    cold=20.0,
    warm=10.0,
    help=0.6,
    print_config=0.6,
)
NAMES = dict(
    cold="first update, cold",
    warm="first update, warm",
    help="--help",
    print_config="--print_config",
)
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


def measure(
    target: str,
    overrides: list[tuple[str, str]],
    repeats: int,
) -> dict[str, Any]:
    """Returns the seconds until the first update, cold and warm, and of the printing commands."""
    if repeats < 1:
        raise UserError(f"--repeats={repeats} must be at least 1")
    # A mistake in the recipe is reported before anything is started.
    load_recipe(target)
    flags = [f"--{dotted}={text}" for dotted, text in overrides]
    # The same command line for all starts.
    recipe = [f"--config={target}", *flags]
    seconds: dict[str, list[float]] = {name: [] for name in LIMITS}
    for _ in range(repeats):
        # The second start finds the caches of the first.
        with tempfile.TemporaryDirectory() as folder:
            for kind in ("cold", "warm"):
                seconds[kind].append(_first_update(recipe, Path(folder), kind))
        seconds["help"].append(_printing(["--help"]))
        seconds["print_config"].append(_printing([*recipe, "--print_config"]))
    spreads = {name: benches.spread(values) for name, values in seconds.items()}
    return dict(config=target, **spreads, limits=LIMITS)


def table(results: dict[str, Any]) -> str:
    """Formats the results for people."""
    lines = [f"start-up of {results['config']}"]
    for kind, name in NAMES.items():
        seconds = benches.formatted(results[kind])
        lines.append(f"  {name:<20} {seconds} s, limit {LIMITS[kind]:g} s")
    return "\n".join(lines)


def _command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "dlm.train", *words]


def _environment() -> dict[str, str]:
    """Returns our environment, in which a child finds the package."""
    # The package may not be installed.
    root = str(Path(__file__).parents[2])
    path = os.environ.get("PYTHONPATH")
    return dict(os.environ, PYTHONPATH=f"{root}{os.pathsep}{path}" if path else root)


def _with_caches(folder: Path) -> dict[str, str]:
    """Returns the environment with caches of its own for compiled code and encoded documents."""
    caches = dict(
        JAX_COMPILATION_CACHE_DIR=str(folder / "compiled"),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        DLM_CACHE=str(folder / "tokens"),
    )
    return _environment() | caches


def _printing(words: list[str]) -> float:
    command, environment = _command(words), _environment()
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def _first_update(recipe: list[str], folder: Path, kind: str) -> float:
    words = [*recipe, "--config.steps=2", f"--workdir={folder / kind}"]
    command, environment = _command(words), _with_caches(folder)
    lines: list[str] = []
    seconds = None
    began = time.perf_counter()
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        # It is read while the child runs, so that the line's arrival can be timed.
        for line in process.stderr or ():
            lines.append(line)
            if seconds is None and line.startswith("first update done"):
                seconds = time.perf_counter() - began
    if process.returncode or seconds is None:
        cause = "it said nothing"
        if lines:
            cause = lines[-1].strip().removeprefix("error: ")
        command_line = json.dumps(" ".join(words))
        raise UserError(f"{command_line} did not reach its first update: {cause}")
    return seconds
