"""Sweeps in plain Python: a point is a set of overrides by dotted name, a sweep a list of points.

    def sweep():                                          # in a recipe, beside get_config
        objective = chain(point("ar", {"objective": "objectives.ar"}), over("objective.process.schedule", "linear", "cosine"))
        return repeat(product(objective, over("nn.width", 64, 128)), seeds=3)

`product` combines every point of one list with every point of the next, `zip` the first with the first, `chain` puts lists end to end,
`repeat` runs each point with several seeds. A point is named after what it overrides: width=64-seed=1.
"""

import builtins
import copy
import functools
import itertools
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlm.core import recipe
from dlm.core.config import load_recipe, override, put, to_plain
from dlm.core.errors import UserError
from dlm.core.run import Run, build_run
from dlm.runs import earlier_fields

LOGS = "logs"  # in a sweep's folder, beside the runs' directories
_LONGEST = 120  # bytes of a name, which becomes a directory's
_TAKEN = (
    LOGS,
    "report.html",
    "results.csv",
    "config.json",
)  # what commands make or look for in a sweep's folder


@dataclass(frozen=True)
class Point:
    """Overrides, and one label for each choice that was made."""

    labels: tuple[str, ...]
    overrides: dict[str, Any]

    @property
    def name(self) -> str:
        """One component of a path."""
        plain = re.sub(r"[^\w.=+-]+", "_", unicodedata.normalize("NFC", "-".join(self.labels)))
        return plain.encode()[:_LONGEST].decode(errors="ignore") or "run"


def point(label: str, overrides: dict[str, Any]) -> list[Point]:
    """One point with a name of its own."""
    return [Point((str(label),), dict(overrides))]


def over(field: str, *values: Any) -> list[Point]:
    """A point for each value of one field."""
    return [Point((f"{field.rpartition('.')[2]}={to_plain(v)}",), {field: v}) for v in values]


def product(*lists: Sequence[Point]) -> list[Point]:
    """Every combination of one point of each list; the last list varies fastest."""
    return [functools.reduce(_both, points) for points in itertools.product(*lists)]


def zip(*lists: Sequence[Point]) -> list[Point]:
    """The first points of all lists together, then the second ones."""
    if len({len(points) for points in lists}) > 1:
        raise UserError(
            f"zip of lists of {', '.join(str(len(points)) for points in lists)} points: give all the same number"
        )
    return [functools.reduce(_both, points) for points in builtins.zip(*lists, strict=True)]


def chain(*lists: Sequence[Point]) -> list[Point]:
    """The points of all lists, one list after the other."""
    return [p for points in lists for p in points]


def repeat(points: Sequence[Point], seeds: int) -> list[Point]:
    """Each point with the seeds 0 … seeds − 1."""
    return product(points, over("seed", *range(seeds)))


def _both(a: Point, b: Point) -> Point:
    for twice in a.overrides.keys() & b.overrides.keys():
        raise UserError(f"{twice} is overridden twice, in {a.name} and in {b.name}")
    return Point(a.labels + b.labels, a.overrides | b.overrides)


@dataclass(frozen=True)
class Sweep:
    """A recipe's points, each with its validated run and the flags that make dlm.train build it."""

    points: tuple[Point, ...]
    runs: dict[str, Run]
    flags: dict[str, tuple[str, ...]]


def points_of(target: str) -> list[Point] | None:
    """What sweep() of FILE.py[:args] returns (sweep(args) where it takes them, as get_config does); None where the recipe has none."""
    path, arg = recipe.split(target)
    with recipe.errors_in(path):
        sweep = recipe.load_function(path, "sweep")
        return None if sweep is None else list(recipe.call(sweep, arg) or [])


def load(target: str, overrides: Sequence[tuple[str, str]] = ()) -> Sweep:
    """The sweep of FILE.py[:args]; `overrides` (dotted name, text) hold for all of its runs. Every run is validated.

    Raises UserError for a recipe without sweep(), for names that come twice and for the first run that cannot be built.
    """
    base, points = load_recipe(target), points_of(target)
    if points is None:
        raise UserError(f"{target} has no sweep()")
    if not points or not all(isinstance(p, Point) for p in points):
        raise UserError(f"sweep() of {target} must return at least one point of dlm.sweeps.grid")
    _check_names(target, [p.name for p in points])
    common = tuple(f"--{dotted}={text}" for dotted, text in overrides)
    for dotted, text in overrides:
        override(base, dotted.removeprefix("config."), text)
    configs = {p.name: _built(base, p) for p in points}
    flags = {name: (f"--config={target}", *common, *words) for name, (_, words) in configs.items()}
    return Sweep(tuple(points), {name: run for name, (run, _) in configs.items()}, flags)


def _check_names(target: str, names: Sequence[str]) -> None:
    """Each is to be a directory of its own, also where a file system takes A and a for the same."""
    alike: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if not name[0].isalnum():
            raise UserError(
                f"sweep() of {target}: the name {name!r} must begin with a letter or a digit: label it otherwise with point()"
            )
        if folded in _TAKEN:
            raise UserError(
                f"sweep() of {target}: {name!r} is what a sweep keeps beside its runs: label it otherwise with point()"
            )
        if folded in alike:
            both = (
                repr(name)
                if alike[folded] == name
                else f"{alike[folded]!r} or {name!r}, which some file systems take for the same"
            )
            raise UserError(
                f"sweep() of {target} makes 2 runs with the name {both}: label them apart with point()"
            )
        alike[folded] = name


def _built(base: dict, p: Point) -> tuple[Run, list[str]]:
    config, applied, words = copy.deepcopy(base), copy.deepcopy(base), []
    for field, value in p.overrides.items():
        text = value if isinstance(value, str) else repr(to_plain(value))
        put(config, field, to_plain(value))
        override(applied, field, text)
        words.append(f"--config.{field}={text}")
    try:
        earlier_fields.check(config)
        run = build_run(config)
        if build_run(applied) != run:
            raise UserError(
                f"{' '.join(words)} means something else on a command line; give the whole section as a dictionary"
            )
    except UserError as error:
        raise UserError(f"run {p.name!r}: {error}") from None
    return run, words
