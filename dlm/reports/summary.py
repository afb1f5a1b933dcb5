"""The report page: table, plots, config differences, samples with their replay, provenance.

It is one file and needs no network.
"""

import html
import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dlm.reports import fairness, table
from dlm.reports.figures import figures
from dlm.reports.groups import Group, all_records, differences
from dlm.reports.record import Record
from dlm.reports.replay import GENERATOR, fill_page, printable
from dlm.samplers.plan import described

Cells = Sequence[str]

KINDS = dict(infill="Infilling", problem="Problem")  # captions; all others are samples
CANNOT_INFILL = "cannot infill: it does not see the right context"
_FEW = 4  # models that a title names
_HEADING = 60  # characters that they may take


def page(groups: list[Group]) -> str:
    """Returns report.html."""
    rows = table.rows(groups)
    head, *lines = table.shown(rows)
    warnings = [
        f"<p class=warning>{html.escape(text)}</p>"
        for text in fairness.warnings(groups)
    ]
    # A run that has drawn no samples still says where it is from.
    samples = []
    origins = []
    for group in groups:
        for record in group.records:
            origins.append(_origin(group.label, record))
            if record.samples:
                samples.append(_samples(group.label, record))
    parts = {
        "title": html.escape(_title(groups)),
        "notes": "".join(warnings),
        "table": _table(head, lines, "Models and their scores"),
        "legend": html.escape(table.LEGEND),
        "others": _others(table.others(groups)),
        "data": html.escape(_texts(rows)),
        "plots": "".join(figures(groups, rows)),
        "differences": _differences(groups),
        "samples": _side_by_side(samples),
        "runs": "".join(origins),
        "written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    return fill_page(Path(__file__).with_suffix(".html"), parts)


def _title(groups: list[Group]) -> str:
    labels = ", ".join(group.label for group in groups)
    if len(groups) > _FEW or len(labels) > _HEADING:
        return f"Report on {len(groups)} models"
    return f"Report on {labels}"


def _texts(rows: list[table.Row]) -> str:
    """The names of the texts that the models were scored on."""
    names = {row.data for row in rows if row.data}
    return ", ".join(sorted(names)) or "not scored yet"


def _others(others: list[table.Other]) -> str:
    """The table of scores of calls that differed from the configs."""
    if not others:
        return ""
    # What was called otherwise stands beside each score.
    lines = []
    for other in others:
        number = table.score(other.value, other.interval)
        lines.append((other.model, other.call, other.name, number, f"{other.seeds:,}"))
    title = "Other scores: what was asked otherwise than the runs' configs do"
    head = ("model", "asked", "score", "value", "seeds")
    return f"<h2>{title}</h2>" + _table(head, lines, title)


def _table(head: Cells, rows: Iterable[Cells], title: str) -> str:
    """A table that scrolls in its own frame, also by keyboard."""
    # The first cell of a line is its heading, for screen readers.
    titles = [f"<th scope=col>{html.escape(name)}</th>" for name in head]
    lines = []
    for row in rows:
        first, *rest = map(html.escape, row)
        cells = "".join(f"<td>{cell}</td>" for cell in rest)
        lines.append(f"<tr><th scope=row>{first}</th>{cells}</tr>")
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(title)}">'
        f"<table><thead><tr>{''.join(titles)}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _differences(groups: list[Group]) -> str:
    """The table of the fields in which the configs differ."""
    fields, values = differences(groups)
    # A single run has nothing to differ from.
    if not fields:
        several = len(all_records(groups)) > 1
        return "<p>The configs differ in their seeds alone.</p>" if several else ""
    rows = []
    for group, row in zip(groups, values, strict=True):
        rows.append([group.label, *row])
    return _table(["model", *fields], rows, "Differences between the configs")


def _side_by_side(samples: list[str]) -> str:
    if not samples:
        return ""
    legend = "<p class=soft>What was given is underlined.</p>"
    return f"<h2>Samples</h2>{legend}<div class=side>{''.join(samples)}</div>"


def _samples(label: str, record: Record) -> str:
    """The last samples of a run and the replays of their denoising."""
    folder = html.escape(record.workdir.name)
    parts = [f"<section><h3>{html.escape(label)} <small>{folder}</small></h3>"]
    traces: dict[str, None] = {}
    for sample in record.shown():
        parts.append(_sample(sample))
        # One page replays all samples of a call.
        if sample.get("trace"):
            traces[sample["trace"]] = None
    parts += map(_replay, traces)
    if record.one_sided:
        parts.append(f"<p>{html.escape(label)} {CANNOT_INFILL}.</p>")
    return "".join(parts) + "</section>"


def _sample(sample: dict) -> str:
    """A sample with its settings; anchors are underlined."""
    # A sample without a prompt is one piece.
    texts = []
    for piece, is_anchor in sample.get("pieces") or [[sample["text"], False]]:
        text = html.escape(printable(piece))
        texts.append(f"<u>{text}</u>" if is_anchor else text)

    # The caption has all that is needed to draw the sample again.
    settings = described(sample.get("sampler") or {})
    words = [f"{name} {setting}" for name, setting in settings.items()]
    for name in ("seed", "nfe"):
        if name in sample:
            words.append(f"{name} {sample[name]}")
    kind = KINDS.get(sample["kind"], "Sample")
    caption = html.escape(", ".join(words))
    return (
        f"<figure><figcaption>{kind} <small>{caption}</small></figcaption>"
        f"<pre>{''.join(texts)}</pre></figure>"
    )


def _replay(trace: str) -> str:
    """The replay page of some samples, inside this one; '' where it no longer exists."""
    try:
        page = Path(trace).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    if GENERATOR not in page[:500]:
        return ""
    # Anybody may have written that file, so it runs in a sandbox.
    name = html.escape(Path(trace).name)
    options = f'sandbox="allow-scripts" loading="lazy" title="Replay of the denoising, {name}"'
    return (
        "<details class=replay><summary>Replay the denoising</summary>"
        f'<iframe {options} srcdoc="{html.escape(page)}"></iframe></details>'
    )


def _origin(label: str, record: Record) -> str:
    """The provenance of a run: its directory, code, machine and config."""
    # All that is needed to repeat the run.
    facts = {"directory": record.workdir, "commit": record.commit or "unknown"}
    items = []
    for name, fact in (facts | record.environment).items():
        text = fact if isinstance(fact, str) else json.dumps(fact, default=str)
        term = f"<dt>{html.escape(str(name))}</dt>"
        items.append(f"<div>{term}<dd>{html.escape(text)}</dd></div>")
    config = html.escape(json.dumps(record.config, indent=2, ensure_ascii=False))
    title = f"{html.escape(label)} <small>{html.escape(record.workdir.name)}</small>"
    return (
        f"<details><summary>{title}</summary><dl>{''.join(items)}</dl>"
        f"<details><summary>config.json</summary><pre>{config}</pre></details></details>"
    )
