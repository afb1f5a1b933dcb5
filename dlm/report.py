"""Sets runs side by side: a table, training curves, samples and what they ran on, in one report.html and results.csv."""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from dlm.reports import summary, table
from dlm.reports.replay import printable
from dlm.run import cli
from dlm.run.spec import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise UserError(f"{message}; --help lists the flags")


def main(argv: list[str] | None = None) -> None:
    parser = _Parser(prog="python -m dlm.report", description=__doc__, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUNDIR", help="run directories, as dlm.train left them")
    parser.add_argument("--out", metavar="DIR", help="where report.html and results.csv go (default: the first RUNDIR)")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout instead of the table")
    report(parser.parse_args(argv))


def report(args: argparse.Namespace) -> None:
    records = table.read(args.runs)
    rows, out = table.rows(records), Path(args.out or args.runs[0])
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "results.csv").write_text(table.as_csv(rows), encoding="utf-8")
        (out / "report.html").write_text(summary.page(records, rows, out), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror}") from error
    for warning in table.warnings(records):
        cli.say(f"warning: {warning}")
    if args.json:
        samples = {record.model: record.shown() for record in records}
        files = dict(report=str(out / "report.html"), results=str(out / "results.csv"))
        cli.emit(dict(rows=[asdict(row) for row in rows], samples=samples, **files))
    else:
        print("\n" + table.as_text(rows) + "\n" + "".join(_told(record) for record in records))


def _told(record: table.Record) -> str:
    """A model's samples for a terminal, each line behind a bar."""
    told, anchor = [], ("\x1b[4m", "\x1b[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    for sample in record.shown():
        pieces = sample.get("pieces") or [[sample["text"], False]]
        text = "".join("\n".join(anchor[0] * f + line + anchor[1] * f for line in printable(p).split("\n")) for p, f in pieces)
        title = f"{record.model}, {'infilling' if sample['kind'] == 'infill' else 'sample'}"
        told.append(f"\n{title}\n" + "".join(f"  │ {line}\n" for line in text.rstrip("\n").split("\n")))
    if told and record.one_sided:
        told.append(f"\n{record.model} {summary.CANNOT_INFILL}\n")
    return "".join(told)


if __name__ == "__main__":
    cli.main(main)
