"""The report page: table, curves, samples side by side, and what each run ran on. One file, no network."""

import html
import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from dlm.reports import curves, table
from dlm.reports.replay import printable

CANNOT_INFILL = "cannot infill: it does not see the right context"


def page(records: list[table.Record], rows: list[table.Row], out: Path) -> str:
    """report.html, to be written into `out` (links to replays are relative to it)."""
    lines = {r.model: [(m["step"], m["bits_per_byte"]) for m in r.metrics if "bits_per_byte" in m] for r in records}
    parts = dict(
        title=html.escape("Report on " + ", ".join(record.model for record in records)),
        notes="".join(f"<p class=warning>{html.escape(text)}</p>" for text in table.warnings(records)),
        table=_table(rows),
        data=html.escape(", ".join(sorted({row.data for row in rows if row.data})) or "not scored yet"),
        curves=curves.svg(lines, "updates", "training bits/byte"),
        samples="".join(_samples(record, out) for record in records if record.samples),
        runs="".join(map(_origin, records)),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return re.sub(r"{{(\w+)}}", lambda m: parts[m[1]], Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))


def _table(rows: list[table.Row]) -> str:
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in table.HEAD)
    body = ""
    for row in rows:
        first, *rest = map(html.escape, table.cells(row))
        body += f"<tr><th scope=row>{first}</th>" + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>"
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _samples(record: table.Record, out: Path) -> str:
    parts = [f"<section><h3>{html.escape(record.model)}</h3>"]
    for sample in record.shown():
        pieces = sample.get("pieces") or [[sample["text"], False]]
        text = "".join(f"<u>{html.escape(printable(p))}</u>" if given else html.escape(printable(p)) for p, given in pieces)
        named = {k: v["name"].removeprefix("samplers.") if isinstance(v, dict) else v for k, v in sample.get("sampler", {}).items()}
        about = [f"{k} {v}" for k, v in named.items()]
        about += [f"{k} {sample[k]}" for k in ("seed", "nfe") if k in sample]
        kind = "Infilling" if sample["kind"] == "infill" else "Sample"
        parts.append(f"<figure><figcaption>{kind} <small>{html.escape(', '.join(about))}</small>{_replay(sample, out)}</figcaption>")
        parts.append(f"<pre>{text}</pre></figure>")
    if record.one_sided:
        parts.append(f"<p>{html.escape(record.model)} {CANNOT_INFILL}.</p>")
    return "".join(parts) + "</section>"


def _replay(sample: dict, out: Path) -> str:
    """A link to the replay of a sample, where that page still exists."""
    if not sample.get("trace") or not Path(sample["trace"]).is_file():
        return ""
    return f' <a href="{html.escape(Path(os.path.relpath(sample["trace"], out)).as_posix())}">replay</a>'


def _origin(record: table.Record) -> str:
    facts = {"directory": record.workdir, "commit": record.commit or "unknown", **record.environment}
    items = "".join(
        f"<div><dt>{html.escape(str(k))}</dt><dd>{html.escape(v if isinstance(v, str) else json.dumps(v, default=str))}</dd></div>"
        for k, v in facts.items()
    )
    config = html.escape(json.dumps(record.config, indent=2, ensure_ascii=False))
    title = f"<h3>{html.escape(record.model)}</h3>"
    return f"<section>{title}<dl>{items}</dl><details><summary>config.json</summary><pre>{config}</pre></details></section>"
