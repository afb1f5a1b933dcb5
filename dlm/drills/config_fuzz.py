"""Mutate what users give (configs, recipes, data, run directories, imported models): each is accepted, or refused in one line.

python -m dlm.bench fuzz [--of=configs,data,imports,recipes,runs] [--cases=2000] [--seed=N] [--json]
"""

import importlib
import tempfile
from collections import Counter
from pathlib import Path

from dlm.app import cli
from dlm.app.cli import Flag
from dlm.core.console import say
from dlm.core.errors import UserError
from dlm.core.named import Seed, nearest
from dlm.drills.fuzzed import GOOD

FLAGS = [
    Flag("of", "kinds of input, separated by commas (default: all)"),
    Flag("cases", "mutated inputs of each kind", default=2000, type=int),
    Flag("seed", "of the mutations", default=0, type=Seed),
    Flag("json", "print one JSON object on stdout", type=bool),
]
FOLDER = Path(__file__).parent / "fuzzed"


def main(argv: list[str] | None = None) -> int:
    args, _ = cli.parse(__doc__, FLAGS, argv)
    if args.cases < 1:
        raise UserError(f"--cases={args.cases} must be at least 1")
    results = {kind: tried(kind, args.seed, args.cases) for kind in chosen(args.of)}
    if args.json:
        cli.emit(dict(cases=args.cases, seed=args.seed, kinds=results))
    return int(any(result["faults"] for result in results.values()))


def chosen(named: str | None) -> list[str]:
    """The kinds of input that a flag names, by default one for each file of the folder."""
    kinds = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    wanted = named.split(",") if named else kinds
    for kind in wanted:
        if kind not in kinds:
            raise UserError(
                f"--of={kind} is unknown{nearest(kind, kinds)}; there are {', '.join(kinds)}"
            )
    return wanted


def tried(kind: str, seed: int, cases: int) -> dict:
    """Tries one kind of input; returns how many cases had which outcome, and every fault."""
    outcomes, faults = Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for done, outcome in importlib.import_module(f"dlm.drills.fuzzed.{kind}").cases(
            seed, cases, Path(folder)
        ):
            outcomes[outcome if outcome in GOOD else "faults"] += 1
            if outcome not in GOOD:
                faults.append(f"{done}: {outcome}")
                say(f"{kind}: {faults[-1]}")
    say(
        f"{kind}: {cases} cases, "
        + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common())
    )
    return dict(outcomes=dict(outcomes), faults=faults)
