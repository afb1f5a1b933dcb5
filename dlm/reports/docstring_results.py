"""Writes the results of a recipe's runs into the recipe's docstring, between two markers.

    === results of configs/x.py:size=tiny, config 1a2b3c4d5e6f, commit 83bfaab, …, seeds 0 1 ===
    model   claim   held-out bits/byte …
    === end of results ===

The hash covers the whole config, so a test can fail where a recipe was changed after its results.
"""

import hashlib
import json
import re
import textwrap
from collections.abc import Iterable
from pathlib import Path

from dlm.core import files, recipe
from dlm.core.config import list_differences, load_recipe, to_plain
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.reports import fairness, table
from dlm.reports.groups import Group, all_records
from dlm.reports.record import Record
from dlm.sweeps import grid

_MARKED = re.compile(
    r"^(?P<indent>[ \t]*)=== results of (?P<target>\S+),(?P<provenance>.*?) ===\n"
    r".*?"
    r"^[ \t]*=== end of results ===\n",
    re.MULTILINE | re.DOTALL,
)
_NOTE_WIDTH = 132  # columns of the notes below a table
_HASH = re.compile(r" config ([0-9a-f]{12}),")


def digest(target: str) -> str:
    """Returns 12 hexadecimal digits of the sha256 of the recipe FILE.py[:args] and its sweep."""
    # A sweep's overrides are part of what its runs are.
    overrides = {}
    for point in grid.points_of(target) or []:
        overrides[point.name] = point.overrides
    parts = [load_recipe(target), overrides]
    plain = [to_plain(part) for part in parts]
    text = json.dumps(plain, sort_keys=True)
    full = hashlib.sha256(text.encode())
    return full.hexdigest()[:12]


def write(target: str, groups: list[Group]) -> Path:
    """Puts the table of these runs between the markers of the recipe FILE.py[:args].

    Returns the path of the file. Raises UserError where the file has no markers for that target,
    or where a run is not a run of the recipe.
    """
    # The text is searched first, so that nothing is computed for a file without markers.
    file, _ = recipe.split(target)
    path = Path(file)
    text = ""
    if path.is_file():
        text = path.read_text(encoding="utf-8")
    place = _place(text, target)
    if place is None:
        raise UserError(
            f"{path} has no place for results of {target}: put the two lines "
            f"'=== results of {target}, none yet ===' and '=== end of results ===' "
            "into its docstring"
        )
    _check_runs(target, groups)

    # Only what is between the markers changes, so the recipe's own words stay as they are.
    block = _block(target, groups)
    lines = [f"{place['indent']}{line}".rstrip() for line in block.splitlines()]
    before = text[: place.start()]
    after = text[place.end() :]
    files.write(path, before + "\n".join(lines) + "\n" + after)
    return path


def stale(path: Path) -> list[str]:
    """Returns the targets in a recipe's docstring whose config changed after their results."""
    targets = []
    text = Path(path).read_text(encoding="utf-8")
    for place in _MARKED.finditer(text):
        recorded = _HASH.search(place["provenance"] + ",")
        # The marker names the recipe as its author called it; the file may be elsewhere now.
        _, _, arguments = place["target"].partition(":")
        target = f"{path}:{arguments}".rstrip(":")
        if recorded and recorded[1] != digest(target):
            targets.append(place["target"])
    return targets


def _place(text: str, target: str) -> re.Match | None:
    for place in _MARKED.finditer(text):
        if place["target"] == target:
            return place
    return None


def _block(target: str, groups: list[Group]) -> str:
    """The text between the markers, and the markers."""
    # A table is never copied without its warnings.
    warnings = fairness.warnings(groups)
    notes = [table.LEGEND]
    notes += [f"note: {warning}" for warning in warnings]
    lines = [
        f"=== results of {target}, {_provenance(target, groups)} ===",
        table.as_text(table.rows(groups)),
        *map(_wrapped, notes),
        "=== end of results ===",
    ]
    return "\n".join(lines)


def _wrapped(note: str) -> str:
    # Names of files and fields stay whole, so that they can be searched for.
    return textwrap.fill(
        note, _NOTE_WIDTH, break_long_words=False, break_on_hyphens=False
    )


def _provenance(target: str, groups: list[Group]) -> str:
    """The config's hash, the code, the machines and the seeds of a table."""
    records = all_records(groups)
    commits = _joined(record.code() for record in records)
    machines = _joined(_machine(record) for record in records)
    seeds = {record.config.get("seed", 0) for record in records}
    numbers = " ".join(str(seed) for seed in sorted(seeds))
    return f"config {digest(target)}, commit {commits}, {machines}, seeds {numbers}"


def _check_runs(target: str, groups: list[Group]) -> None:
    """Raises UserError for a run that differs from every run of the recipe."""
    if grid.points_of(target) is None:
        runs = [build_run(load_recipe(target))]
    else:
        sweep = grid.load(target)
        runs = list(sweep.runs.values())

    # A run belongs to the recipe if it equals one of the recipe's runs.
    recipes = [to_plain(run) for run in runs]
    for record in all_records(groups):
        # A field that the code has gained since the run gets its default here.
        config = to_plain(build_run(record.config))
        changes = [_changes(one, config) for one in recipes]
        if all(changes):
            nearest = min(changes, key=len)
            raise UserError(f"{record.workdir} is no run of {target}: {nearest[0]}")


def _changes(one: dict, other: dict) -> list[str]:
    # How a run was spread over devices does not change its results.
    lines = list_differences(one, other)
    return [line for line in lines if not line.startswith("mesh.")]


def _joined(values: Iterable[str]) -> str:
    different = dict.fromkeys(values)
    return " and ".join(different)


def _machine(record: Record) -> str:
    """'2 × Xeon, Python 3.11.7'; a run on accelerators counts those."""
    environment = record.environment
    devices = environment.get("devices", [])
    python = environment.get("python", "?")
    if all(device.startswith("cpu") for device in devices):
        kind = environment.get("processor") or "cpu"
        count = environment.get("cores", 1)
    else:
        kind = devices[0]
        count = len(devices)
    return f"{count} × {kind}, Python {python}"
