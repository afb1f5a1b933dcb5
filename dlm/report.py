"""Compares runs: their scores, curves, samples and provenance, in report.html and results.csv."""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from dlm.app import cli
from dlm.core import console, files
from dlm.core.errors import UserError
from dlm.reports import docstring_results, fairness, record, summary, table
from dlm.reports.groups import Group, all_records, grouped
from dlm.reports.replay import printable

_PUBLISHED = {"call": "asked"}  # field of a table.Other → its name in the JSON
_UNDERLINE = ("\x1b[4m", "\x1b[0m")


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; --help lists the flags")


def main(argv: list[str] | None = None) -> None:
    parser = _Parser(
        prog="python -m dlm.report", description=__doc__, allow_abbrev=False
    )
    place = cli.place
    parser.add_argument(
        "runs",
        nargs="+",
        type=place("RUNDIR"),
        metavar="RUNDIR",
        help="run directories, or a sweep's folder of them",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=place("--out"),
        help="where report.html and results.csv go (default: the first RUNDIR)",
    )
    parser.add_argument(
        "--into",
        metavar="RECIPE",
        type=place("--into"),
        help="also put the table into this recipe's docstring, between its markers",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object on stdout instead of the table",
    )
    report(parser.parse_args(argv))


def report(args: argparse.Namespace) -> None:
    """Writes the report of the runs, and prints its table and warnings."""
    # A sweep's report is in the sweep's folder.
    out = Path(args.out or args.runs[0])
    groups = grouped(record.read(args.runs))
    # A folder that cannot be written is noticed before the plots are drawn.
    for name in ("results.csv", "report.html"):
        files.try_writing(out / name, "name another folder by --out=DIR")
    page = summary.page(groups)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files.write(out / "results.csv", table.as_csv(groups))
        files.write(out / "report.html", page)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from error
    if args.into:
        path = docstring_results.write(args.into, groups)
        console.say(f"results written into {path}")
    for warning in fairness.warnings(groups):
        console.say(f"warning: {warning}")

    # The table is the output; all else went to stderr.
    if args.json:
        cli.emit(_as_json(groups, out))
    else:
        print(_as_text(groups))


def _as_json(groups: list[Group], out: Path) -> dict:
    # Fields of dataclasses are the names in the JSON, apart from a few.
    others = []
    for other in table.others(groups):
        line = {}
        for name, value in asdict(other).items():
            line[_PUBLISHED.get(name, name)] = value
        others.append(line)
    return {
        "rows": [asdict(row) for row in table.rows(groups)],
        "others": others,
        "samples": {group.label: _samples(group) for group in groups},
        "report": str(out / "report.html"),
        "results": str(out / "results.csv"),
    }


def _as_text(groups: list[Group]) -> str:
    scores = table.as_text(table.rows(groups))
    others = table.others_as_text(table.others(groups))
    samples = "".join(_samples_text(group) for group in groups)
    return f"\n{scores}\n{table.LEGEND}\n{others}{samples}"


def _samples(group: Group) -> list[dict]:
    samples = []
    for one in all_records([group]):
        samples += one.shown()
    return samples


def _samples_text(group: Group) -> str:
    """A model's samples for a terminal, each line behind a bar."""
    # The bar shows where a sample's own blank lines end.
    parts = []
    for sample in _samples(group):
        kind = "infilling" if sample["kind"] == "infill" else "sample"
        lines = _sample_text(sample).rstrip("\n").split("\n")
        barred = "".join(f"  │ {line}\n" for line in lines)
        parts.append(f"\n{group.label}, {kind}\n{barred}")
    if parts and group.records[0].one_sided:
        parts.append(f"\n{group.label} {summary.CANNOT_INFILL}\n")
    return "".join(parts)


def _sample_text(sample: dict) -> str:
    """The text of a sample, its anchors underlined where the terminal can."""
    begin, end = "", ""
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        begin, end = _UNDERLINE
    texts = []
    for piece, is_anchor in sample.get("pieces") or [[sample["text"], False]]:
        lines = printable(piece).split("\n")
        # Each line is underlined by itself: the bar before the next one is not.
        if is_anchor:
            lines = [begin + line + end for line in lines]
        texts.append("\n".join(lines))
    return "".join(texts)


if __name__ == "__main__":
    cli.main(main)
