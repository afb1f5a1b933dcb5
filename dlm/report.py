"""Sets runs side by side: a table, training curves, samples and what they ran on, in one report.html and results.csv."""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from dlm.app import cli
from dlm.core import console, files
from dlm.core.errors import UserError
from dlm.reports import docstring_results, fairness, record, summary, table
from dlm.reports.groups import Group, grouped
from dlm.reports.replay import printable


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; --help lists the flags")


def main(argv: list[str] | None = None) -> None:
    parser = _Parser(prog="python -m dlm.report", description=__doc__, allow_abbrev=False)
    add, place = parser.add_argument, cli.place
    add(
        "runs",
        nargs="+",
        type=place("RUNDIR"),
        metavar="RUNDIR",
        help="run directories, or a sweep's folder of them",
    )
    add(
        "--out",
        metavar="DIR",
        type=place("--out"),
        help="where report.html and results.csv go (default: the first RUNDIR)",
    )
    add(
        "--into",
        metavar="RECIPE",
        type=place("--into"),
        help="also put the table into this recipe's docstring, between its markers",
    )
    add("--json", action="store_true", help="print one JSON object on stdout instead of the table")
    report(parser.parse_args(argv))


def report(args: argparse.Namespace) -> None:
    out = Path(args.out or args.runs[0])
    groups = grouped(record.read(args.runs))
    for name in ("results.csv", "report.html"):
        files.try_writing(out / name, "name another folder by --out=DIR")
    rows, others = table.rows(groups), table.others(groups)
    page = summary.page(groups)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files.write(out / "results.csv", table.as_csv(groups))
        files.write(out / "report.html", page)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from error
    if args.into:
        console.say(f"results written into {docstring_results.write(args.into, groups)}")
    for warning in fairness.warnings(groups):
        console.say(f"warning: {warning}")
    if args.json:
        samples = {
            group.label: [sample for r in group.records for sample in r.shown()] for group in groups
        }
        paths = dict(report=str(out / "report.html"), results=str(out / "results.csv"))
        cli.emit(
            dict(
                rows=[asdict(row) for row in rows],
                others=[asdict(other) for other in others],
                samples=samples,
                **paths,
            )
        )
    else:
        print(
            "\n"
            + table.as_text(rows)
            + f"\n{table.LEGEND}\n"
            + table.others_as_text(others)
            + "".join(_lines(group) for group in groups)
        )


def _lines(group: Group) -> str:
    """A model's samples for a terminal, each line behind a bar."""
    lines, anchor = (
        [],
        ("\x1b[4m", "\x1b[0m")
        if sys.stdout.isatty() and "NO_COLOR" not in os.environ
        else ("", ""),
    )
    for sample in [sample for r in group.records for sample in r.shown()]:
        pieces = sample.get("pieces") or [[sample["text"], False]]
        text = "".join(
            "\n".join(anchor[0] * f + line + anchor[1] * f for line in printable(p).split("\n"))
            for p, f in pieces
        )
        title = f"{group.label}, {'infilling' if sample['kind'] == 'infill' else 'sample'}"
        lines.append(
            f"\n{title}\n" + "".join(f"  │ {line}\n" for line in text.rstrip("\n").split("\n"))
        )
    if lines and group.records[0].one_sided:
        lines.append(f"\n{group.label} {summary.CANNOT_INFILL}\n")
    return "".join(lines)


if __name__ == "__main__":
    cli.main(main)
