"""A recipe's docstring is its lab notebook: the results of its runs, between two markers, with what made them.

    === results of configs/x.py:size=tiny, config 1a2b3c4d5e6f, commit 83bfaab, 2 × Xeon, Python 3.11.7, seeds 0 1 2 ===
    model   claim   held-out bits/byte …
    === end of results ===

The config's hash is of everything that the recipe says; a test fails where the recipe was changed after its results.
"""

import hashlib
import json
import re
import textwrap
from pathlib import Path

from dlm.core import files, recipe
from dlm.core.config import list_differences, load_recipe, to_plain
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.reports import fairness, table
from dlm.reports.groups import Group
from dlm.sweeps import grid

_MARKED = re.compile(
    r"^([ \t]*)=== results of (\S+),(.*?) ===\n.*?^[ \t]*=== end of results ===\n",
    re.MULTILINE | re.DOTALL,
)
_WIDTH = 132  # of a line below a table
_HASH = re.compile(r" config ([0-9a-f]{12}),")


def digest(target: str) -> str:
    """The first 12 digits of the sha256 of what FILE.py[:args] says, its sweep included."""
    said = [load_recipe(target), {p.name: p.overrides for p in grid.points_of(target) or []}]
    return hashlib.sha256(
        json.dumps([to_plain(part) for part in said], sort_keys=True).encode()
    ).hexdigest()[:12]


def write(target: str, groups: list[Group]) -> Path:
    """Puts the table of these runs between the markers of the recipe FILE.py[:args]; the file's path.

    Raises UserError where the file has no markers for that target, or where a run is not one of its.
    """
    path = Path(recipe.split(target)[0])
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    place = next((m for m in _MARKED.finditer(text) if m[2] == target), None)
    if place is None:
        lines = f"'=== results of {target}, none yet ===' and '=== end of results ==='"
        raise UserError(
            f"{path} has no place for results of {target}: put the two lines {lines} into its docstring"
        )
    _check(target, groups)
    indent, records = place[1], [r for g in groups for r in g.records]
    seeds = " ".join(str(s) for s in sorted({r.config.get("seed", 0) for r in records}))
    provenance = f"config {digest(target)}, commit {_same(r.code() for r in records)}, {_same(map(_machine, records))}, seeds {seeds}"
    told = [table.LEGEND, *(f"note: {text}" for text in fairness.warnings(groups))]
    notes = "".join(
        f"{textwrap.fill(text, _WIDTH, break_long_words=False, break_on_hyphens=False)}\n"
        for text in told
    )
    body = f"=== results of {target}, {provenance} ===\n{table.as_text(table.rows(groups))}\n{notes}=== end of results ===\n"
    shown = "".join(f"{indent}{line}".rstrip() + "\n" for line in body.splitlines())
    files.write(path, text[: place.start()] + shown + text[place.end() :])
    return path


def _check(target: str, groups: list[Group]) -> None:
    swept = grid.points_of(target) is not None
    known = [
        to_plain(run)
        for run in (grid.load(target).runs.values() if swept else [build_run(load_recipe(target))])
    ]
    for record in (r for g in groups for r in g.records):
        config = to_plain(
            build_run(record.config)
        )  # what the code has got since then has its default
        changes = [
            [c for c in list_differences(one, config) if not c.startswith("mesh.")] for one in known
        ]
        if all(changes):
            raise UserError(f"{record.workdir} is no run of {target}: {min(changes, key=len)[0]}")


def _same(values) -> str:
    return " and ".join(dict.fromkeys(values))


def _machine(record) -> str:
    about = record.environment
    devices = about.get("devices", [])
    kind = (
        about.get("processor") or "cpu" if all(d.startswith("cpu") for d in devices) else devices[0]
    )
    count = about.get("cores", 1) if all(d.startswith("cpu") for d in devices) else len(devices)
    return f"{count} × {kind}, Python {about.get('python', '?')}"


def stale(path: Path) -> list[str]:
    """The targets in a recipe's docstring whose results are of another config than the recipe has now."""
    stale_marks = []
    for place in _MARKED.finditer(Path(path).read_text(encoding="utf-8")):
        recorded = _HASH.search(place[3] + ",")
        if recorded and recorded[1] != digest(f"{path}:{place[2].partition(':')[2]}".rstrip(":")):
            stale_marks.append(place[2])
    return stale_marks
