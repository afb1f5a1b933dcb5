"""The report page: table, plots, config differences, samples with their replay, and what each run ran on. One file, no network."""

import html
import json
import re
from datetime import UTC, datetime
from pathlib import Path

from dlm.reports import fairness, plots, scores, table
from dlm.reports.groups import Group, differences
from dlm.reports.record import Record
from dlm.reports.replay import GENERATOR, printable
from dlm.samplers.plan import described

KINDS = dict(infill="Infilling", problem="Problem")  # captions; all others are samples
CANNOT_INFILL = "cannot infill: it does not see the right context"
PRICES = dict(  # of a model's quality: label, attribute of a record
    flops="training FLOPs",
    parameters="parameters",
    tokens="tokens read",
    seconds="training seconds at the median speed",
)
QUALITIES = (
    dict(  # scores that are drawn as bars where a run has them: label, whether smaller is better
        gen_bits_per_byte=("bits/byte of the samples under the judge", True),
        entropy=("entropy of the samples, nats per token", False),
        distinct_2=("distinct pairs of tokens in the samples", False),
        token_accuracy=("infilled tokens that are the original ones", False),
        ece=("expected calibration error", True),
    )
)


def page(groups: list[Group]) -> str:
    """report.html."""
    rows = table.rows(groups)
    head, *lines = table.shown(rows)
    data = ", ".join(sorted({row.data for row in rows if row.data})) or "not scored yet"
    parts = dict(
        title=html.escape(
            f"Report on {len(groups)} models"
            if len(groups) > 4
            else "Report on " + ", ".join(g.label for g in groups)
        ),
        notes="".join(
            f"<p class=warning>{html.escape(text)}</p>" for text in fairness.warnings(groups)
        ),
        table=_table(head, lines, "Models and their scores"),
        legend=html.escape(table.LEGEND),
        others=_others(table.others(groups)),
        data=html.escape(data),
        plots="".join(_plots(groups, rows)),
        differences=_differences(groups),
        samples=_side_by_side(
            [_samples(g.label, r) for g in groups for r in g.records if r.samples]
        ),
        runs="".join(_origin(g.label, r) for g in groups for r in g.records),
        written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return re.sub(
        r"{{(\w+)}}",
        lambda m: parts[m[1]],
        Path(__file__).with_suffix(".html").read_text(encoding="utf-8"),
    )


def _plots(groups: list[Group], rows: list[table.Row]):
    """Headed figures, those that have something to show."""
    scored = [
        (r.model, r.bits_per_byte, r.interval or 0.0) for r in rows if r.bits_per_byte is not None
    ]
    unlike = _unlike(groups, "bits_per_byte", *table.BASELINES)
    yield _figure(
        "Held-out bits per byte", plots.bars(scored, "held-out bits/byte, 95 % interval"), unlike
    )
    yield _figure("Training", plots.curves(groups, "bits_per_byte", "training bits/byte"))
    yield _figure(
        "Held-out text while training",
        plots.curves(groups, "bound.bits_per_byte", "held-out bits/byte"),
    )
    yield _figure(
        "Load of the experts' devices while training",
        plots.curves(groups, "router_imbalance", "(busiest − idlest) / even load"),
    )
    yield _figure(
        "Tokens that experts dropped while training",
        plots.curves(groups, "router_dropped", "share dropped"),
    )
    for attribute, label in PRICES.items():
        points = [
            (g.label, g.mean(lambda r, a=attribute: getattr(r, a)) or 0, *s)
            for g in groups
            if (s := g.score("bits_per_byte"))
        ]
        yield _figure(
            f"Quality against {label}", plots.pareto(points, label, "held-out bits/byte"), unlike
        )
    accuracies = {
        n: (n.replace("_", " "), False)
        for g in groups
        for r in g.records
        for n in r.scores
        if n.endswith("_accuracy")
    }
    for name, (label, lower) in (
        QUALITIES | {n: v for n, v in accuracies.items() if n not in QUALITIES}
    ).items():
        group_scores = [(g.label, *s) for g in groups if (s := g.score(name))]
        title, unlike = f"{label[0].upper()}{label[1:]}", _unlike(groups, name)
        yield _figure(title, plots.bars(group_scores, f"{label}, 95 % interval"), unlike)
        yield _figure(
            f"{title} against passes",
            plots.pareto(_passes(groups, name), "forward passes", label, lower),
            unlike,
        )


def _passes(groups: list[Group], name: str) -> list[tuple[str, float, float, float]]:
    """(label, forward passes, mean, half of its 95 % interval) of a score for every sampler that it was measured with, all else being the
    runs' own."""
    points = []
    for group in groups:
        by_sampler: dict[str, list[dict]] = {}
        for record in group.records:
            asked = [
                score
                for score in record.others
                if all(f.startswith("sampler.") for f in scores.differs(score, record.config))
            ]
            for score in [*asked, *record.scores.values()]:
                if (
                    score["name"] == name
                    and score.get("nfe")
                    and score.get("step", record.updates) == record.updates
                ):
                    by_sampler.setdefault(json.dumps(score.get("sampler")), []).append(score)
        for same in by_sampler.values():
            kept = [same[i] for i in scores.alike(same)[0]]
            points.append(
                (group.label, sum(s["nfe"] for s in kept) / len(kept), *scores.combined(kept))
            )
    return points


def _unlike(groups: list[Group], *names: str) -> str:
    """What stands in a figure whose bars or points do not compare."""
    return "".join(
        f"<p class=warning>{html.escape(line)}</p>" for line in fairness.different(groups, names)
    )


def _figure(title: str, drawing: str, unlike: str = "") -> str:
    return f"<figure><h2>{html.escape(title)}</h2>{unlike}{drawing}</figure>" if drawing else ""


def _others(found: list[table.Other]) -> str:
    if not found:
        return ""
    lines = [
        (o.model, o.asked, o.name, table.score(o.value, o.interval), f"{o.seeds:,}") for o in found
    ]
    title = "Other scores: what was asked otherwise than the runs' configs do"
    return f"<h2>{title}</h2>" + _table(("model", "asked", "score", "value", "seeds"), lines, title)


def _table(head, rows, title: str) -> str:
    """A table that scrolls by itself, also by keyboard."""
    top = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in head)
    body = ""
    for first, *rest in (map(html.escape, row) for row in rows):
        body += (
            f"<tr><th scope=row>{first}</th>"
            + "".join(f"<td>{cell}</td>" for cell in rest)
            + "</tr>"
        )
    inside = f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(title)}">{inside}</div>'


def _differences(groups: list[Group]) -> str:
    fields, values = differences(groups)
    if not fields:
        return (
            "<p>The configs differ in their seeds alone.</p>"
            if sum(len(g.records) for g in groups) > 1
            else ""
        )
    rows = [[group.label, *row] for group, row in zip(groups, values, strict=True)]
    return _table(["model", *fields], rows, "Differences between the configs")


def _side_by_side(samples: list[str]) -> str:
    given = "<p class=soft>What was given is underlined.</p>"
    return f"<h2>Samples</h2>{given}<div class=side>{''.join(samples)}</div>" if samples else ""


def _samples(label: str, record: Record) -> str:
    parts = [
        f"<section><h3>{html.escape(label)} <small>{html.escape(record.workdir.name)}</small></h3>"
    ]
    for sample in record.shown():
        pieces = sample.get("pieces") or [[sample["text"], False]]
        text = "".join(
            f"<u>{html.escape(printable(p))}</u>" if given else html.escape(printable(p))
            for p, given in pieces
        )
        about = [f"{k} {v}" for k, v in described(sample.get("sampler") or {}).items()]
        about += [f"{k} {sample[k]}" for k in ("seed", "nfe") if k in sample]
        kind = KINDS.get(sample["kind"], "Sample")
        parts.append(
            f"<figure><figcaption>{kind} <small>{html.escape(', '.join(about))}</small></figcaption><pre>{text}</pre></figure>"
        )
    parts += [
        _replay(trace)
        for trace in dict.fromkeys(s["trace"] for s in record.shown() if s.get("trace"))
    ]
    if record.one_sided:
        parts.append(f"<p>{html.escape(label)} {CANNOT_INFILL}.</p>")
    return "".join(parts) + "</section>"


def _replay(trace: str) -> str:
    """The replay page of some samples inside this one, where it still exists; in a sandbox, since anybody may have written it."""
    try:
        inside = Path(trace).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    if GENERATOR not in inside[:500]:
        return ""
    name = html.escape(Path(trace).name)
    options = f'sandbox="allow-scripts" loading="lazy" title="Replay of the denoising, {name}"'
    return f'<details class=replay><summary>Replay the denoising</summary><iframe {options} srcdoc="{html.escape(inside)}"></iframe></details>'


def _origin(label: str, record: Record) -> str:
    facts = {
        "directory": record.workdir,
        "commit": record.commit or "unknown",
        **record.environment,
    }
    items = "".join(
        f"<div><dt>{html.escape(str(k))}</dt><dd>{html.escape(v if isinstance(v, str) else json.dumps(v, default=str))}</dd></div>"
        for k, v in facts.items()
    )
    config = html.escape(json.dumps(record.config, indent=2, ensure_ascii=False))
    title = f"{html.escape(label)} <small>{html.escape(record.workdir.name)}</small>"
    inside = f"<dl>{items}</dl><details><summary>config.json</summary><pre>{config}</pre></details>"
    return f"<details><summary>{title}</summary>{inside}</details>"
