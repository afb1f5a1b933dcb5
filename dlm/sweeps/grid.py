"""Sweeps in plain Python: a point is a set of overrides by dotted name, a sweep a list of points.

    def sweep():                                          # in a recipe, beside get_config
        schedules = over("objective.process.schedule", "linear", "cosine")
        objective = chain(point("ar", {"objective": "objectives.ar"}), schedules)
        return repeat(product(objective, over("nn.width", 64, 128)), seeds=3)

`product` combines every point of one list with every point of the next, `zip` the first with the
first, `chain` concatenates lists, and `repeat` runs each point with several seeds. A point is named
after what it overrides: width=64-seed=1.
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
# Files and folders that commands create or look for in a sweep's folder.
_TAKEN = (LOGS, "report.html", "results.csv", "config.json")

Overrides = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Point:
    """Overrides, and one label for each choice."""

    labels: tuple[str, ...]
    overrides: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        joined = unicodedata.normalize("NFC", "-".join(self.labels))
        plain = re.sub(r"[^\w.=+-]+", "_", joined)
        # A character that is cut in two is dropped.
        name = plain.encode()[:_LONGEST].decode(errors="ignore")
        return name or "run"


def point(label: str, overrides: dict[str, Any]) -> list[Point]:
    """Returns one point with this label."""
    labels = (str(label),)
    return [Point(labels, dict(overrides))]


def over(field: str, *values: Any) -> list[Point]:
    """Returns a point for each value of one field."""
    _, _, leaf = field.rpartition(".")
    points = []
    for value in values:
        points += point(f"{leaf}={to_plain(value)}", {field: value})
    return points


def product(*lists: Sequence[Point]) -> list[Point]:
    """Returns every combination of one point of each list; the last list varies fastest."""
    return [_joined(points) for points in itertools.product(*lists)]


def zip(*lists: Sequence[Point]) -> list[Point]:
    """Returns the first points of all lists joined, then the second points, and so on."""
    # Python's zip would drop points silently.
    lengths = [len(points) for points in lists]
    if len(set(lengths)) > 1:
        listed = ", ".join(map(str, lengths))
        raise UserError(f"zip of lists of {listed} points: give all the same number")
    return [_joined(points) for points in builtins.zip(*lists, strict=True)]


def chain(*lists: Sequence[Point]) -> list[Point]:
    """Returns the points of all lists, one list after the other."""
    return list(itertools.chain(*lists))


def repeat(points: Sequence[Point], seeds: int) -> list[Point]:
    """Returns each point with the seeds 0 … seeds − 1."""
    return product(points, over("seed", *range(seeds)))


def _joined(points: Sequence[Point]) -> Point:
    return functools.reduce(_both, points)


def _both(a: Point, b: Point) -> Point:
    for field in a.overrides.keys() & b.overrides.keys():
        raise UserError(f"{field} is overridden twice, in {a.name} and in {b.name}")
    return Point(a.labels + b.labels, a.overrides | b.overrides)


@dataclass(frozen=True)
class Sweep:
    """A recipe's points, each with its validated run and the flags that make dlm.train build it."""

    points: tuple[Point, ...]
    runs: dict[str, Run]
    flags: dict[str, tuple[str, ...]]


def points_of(target: str) -> list[Point] | None:
    """Returns the points of sweep() in FILE.py[:args]; None where the recipe has no sweep().

    sweep(args) gets the arguments if it takes them, as get_config does.
    """
    # An error of the recipe is reported with its file and line.
    path, arguments = recipe.split(target)
    with recipe.errors_in(path):
        sweep = recipe.load_function(path, "sweep")
        if sweep is None:
            return None
        points = recipe.call(sweep, arguments)
        return list(points or [])


def load(target: str, overrides: Overrides = ()) -> Sweep:
    """Returns the sweep of FILE.py[:args], with every run validated.

    `overrides` (dotted name, text) apply to all of its runs. Raises UserError for a recipe without
    sweep(), for names that occur twice and for the first run that cannot be built.
    """
    base = load_recipe(target)
    points = points_of(target)
    if points is None:
        raise UserError(f"{target} has no sweep()")
    if not points or not all(isinstance(each, Point) for each in points):
        raise UserError(
            f"sweep() of {target} must return at least one point of dlm.sweeps.grid"
        )
    _check_names(target, [each.name for each in points])

    # The command line comes before the points, so a point may override it.
    common = []
    for dotted, text in overrides:
        common.append(f"--{dotted}={text}")
        override(base, dotted.removeprefix("config."), text)
    runs = {}
    flags = {}
    for each in points:
        run, words = _build(base, each)
        runs[each.name] = run
        flags[each.name] = (f"--config={target}", *common, *words)
    return Sweep(tuple(points), runs, flags)


def _check_names(target: str, names: Sequence[str]) -> None:
    """Checks that each can be a directory, also where a file system takes A and a for the same."""
    remedy = "label it otherwise with point()"
    # The names are those of directories.
    earlier: dict[str, str] = {}
    for name in names:
        folded = name.casefold()
        if not name[0].isalnum():
            raise UserError(
                f"sweep() of {target}: the name {name!r} must begin with a letter or a digit: "
                f"{remedy}"
            )
        if folded in _TAKEN:
            raise UserError(
                f"sweep() of {target}: {name!r} is what a sweep keeps beside its runs: {remedy}"
            )
        if folded in earlier:
            both = repr(name)
            if earlier[folded] != name:
                other = repr(earlier[folded])
                both = f"{other} or {name!r}, which some file systems take for the same"
            raise UserError(
                f"sweep() of {target} makes 2 runs with the name {both}: "
                "label them apart with point()"
            )
        earlier[folded] = name


def _build(base: dict, each: Point) -> tuple[Run, list[str]]:
    """The run of a point, and the flags that build the same run in another process."""
    # The config is built in both ways, so that they can be compared.
    config = copy.deepcopy(base)
    from_flags = copy.deepcopy(base)
    words = []
    for field, value in each.overrides.items():
        plain = to_plain(value)
        text = value if isinstance(value, str) else repr(plain)
        put(config, field, plain)
        override(from_flags, field, text)
        words.append(f"--config.{field}={text}")
    try:
        earlier_fields.check(config)
        run = build_run(config)
        # A value that a command line reads otherwise would train another run.
        if build_run(from_flags) != run:
            raise UserError(
                f"{' '.join(words)} means something else on a command line; "
                "give the whole section as a dictionary"
            )
    except UserError as error:
        raise UserError(f"run {each.name!r}: {error}") from None
    return run, words
