"""Mutates configs, recipes, data, runs and imported models: each must be accepted or refused.

python -m dlm.bench fuzz [--of=configs,data,imports,recipes,runs] [--cases=2000] [--seed=N] [--json]

A refusal is one line that names the cause.
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
    # Each kind has a folder of its own, which is empty at first.
    results = {}
    for kind in chosen(args.of):
        results[kind] = tried(kind, args.seed, args.cases)
    if args.json:
        cli.emit(dict(cases=args.cases, seed=args.seed, kinds=results))
    return int(any(result["faults"] for result in results.values()))


def chosen(names: str | None) -> list[str]:
    """Returns the kinds of input that a flag names, by default one for each file of the folder."""
    # A new file in the folder is a new kind, without an edit here.
    files = sorted(path.stem for path in FOLDER.glob("*.py"))
    kinds = [name for name in files if name != "__init__"]
    if not names:
        return kinds
    for kind in names.split(","):
        if kind not in kinds:
            near = nearest(kind, kinds)
            raise UserError(
                f"--of={kind} is unknown{near}; there are {', '.join(kinds)}"
            )
    return names.split(",")


def tried(kind: str, seed: int, cases: int) -> dict:
    """Tries one kind of input; returns how many cases had which outcome, and every fault."""
    outcomes: Counter = Counter()
    faults = []
    module = importlib.import_module(f"dlm.drills.fuzzed.{kind}")
    with tempfile.TemporaryDirectory() as folder:
        for mutation, outcome in module.cases(seed, cases, Path(folder)):
            # A fault is printed at once: a run of all cases takes an hour.
            good = outcome in GOOD
            outcomes[outcome if good else "faults"] += 1
            if not good:
                faults.append(f"{mutation}: {outcome}")
                say(f"{kind}: {faults[-1]}")
    counts = [f"{number} {outcome}" for outcome, number in outcomes.most_common()]
    say(f"{kind}: {cases} cases, {', '.join(counts)}")
    return dict(outcomes=dict(outcomes), faults=faults)
