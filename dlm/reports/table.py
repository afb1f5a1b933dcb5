"""Models side by side: what each scored, beside what gzip makes of the held-out bytes.

    masked            bound    3.014 ± 0.012    3    7,012    1,049,600
    ar                exact    2.151            1    7,390    1,049,600
    gzip -9           exact    2.702

A score keeps its claim, bound or exact, and is never printed without its 95 % interval, where it has one.
"""

import csv
import io
import math
from dataclasses import dataclass, field

from dlm.reports.groups import Group, differences, flattened
from dlm.reports.record import Record

BASELINES = {"gzip_bits_per_byte": "gzip -9", "xz_bits_per_byte": "xz -9", "order0_bits_per_byte": "order-0 entropy"}
HEAD = ("model", "claim", "held-out bits/byte", "seeds", "tokens/s", "parameters")


@dataclass(frozen=True)
class Row:
    model: str
    claim: str | None = None
    bits_per_byte: float | None = None
    interval: float | None = None  # half of the 95 % interval
    seeds: int | None = None
    tokens_per_s: float | None = None
    parameters: int | None = None
    step: int | None = None
    data: str | None = None
    commits: tuple[str, ...] = ()
    accuracies: dict[str, tuple[float, float]] = field(default_factory=dict)  # of tasks and infilling, each with half of its interval


def rows(groups: list[Group]) -> list[Row]:
    """A row per model, then one per baseline that any of the runs has scored."""
    records = [r for g in groups for r in g.records]
    return [_model(group) for group in groups] + [
        Row(title, "exact", record.scores[name]["value"], data=record.text_of(record.scores[name]))
        for name, title in BASELINES.items()
        for record in [r for r in records if name in r.scores][:1]
    ]


def _model(group: Group) -> Row:
    last = group.records[-1]
    score, (value, half) = last.scores.get("bits_per_byte", {}), group.score("bits_per_byte") or (None, None)
    return Row(
        model=group.label,
        claim=score.get("claims"),
        bits_per_byte=value,
        interval=half or None,
        seeds=len(group.records),
        tokens_per_s=group.mean(lambda r: r.tokens_per_s),
        parameters=last.parameters,
        step=score.get("step", last.updates),
        data=last.text_of(score),
        commits=tuple(dict.fromkeys(r.commit for r in group.records)),
        accuracies={n: group.score(n) for n in sorted({n for r in group.records for n in r.scores if n.endswith("_accuracy")})},
    )


def warnings(groups: list[Group]) -> list[str]:
    """What makes a comparison unfair, one line each."""
    found, records = [], [(g.label, r) for g in groups for r in g.records]
    scored = [(r, n) for _, r in records for n in ("bits_per_byte", *BASELINES) if n in r.scores]
    texts = {r.text_of(r.scores[n]) for r, n in scored} - {None}
    sizes = {f"{r.scores['held_out_bytes']['value']:,.0f} bytes" for _, r in records if "held_out_bytes" in r.scores}
    if len(texts) > 1 or len(sizes) > 1:
        different = ", ".join(sorted(texts if len(texts) > 1 else sizes))
        found.append(f"scored on different text ({different}): these bits per byte do not compare")
    windows = {r.scores["bits_per_byte"].get("settings", {}).get("windows", 0) for _, r in records if "bits_per_byte" in r.scores}
    if windows - {0} and (len(windows) > 1 or any(n in r.scores for _, r in records for n in BASELINES)):
        told = ", ".join(f"{n} windows" if n else "all" for n in sorted(windows))
        found.append(f"bits per byte are of {told} of the held-out text, gzip, xz and order-0 of all of it")
    for label, record in records:
        if not all(math.isfinite(s["value"]) for s in record.scores.values()):
            found.append(f"{label} has scores that are not finite ({record.workdir}): they are in the table alone")
        step, last = record.scores.get("bits_per_byte", {}).get("step"), record.updates
        if step is None:
            found.append(f"{label} has no held-out score: python -m dlm.evaluate --workdir={record.workdir}")
        elif step != last:
            found.append(f"{label} was scored at step {step}, but trained to step {last} ({record.workdir})")
    if len(commits := {r.commit for _, r in records}) > 1:
        found.append(f"the runs are of {len(commits)} versions of the code ({', '.join(sorted(c[:12] or 'unknown' for c in commits))})")
    return found


def shown(table: list[Row]) -> list[tuple[str, ...]]:
    """The table's head and lines as text, with a column for every accuracy; unknown is blank."""
    names = list(dict.fromkeys(name for row in table for name in row.accuracies))
    head = (*HEAD[:3], *(name.replace("_", " ") for name in names), *HEAD[3:])
    return [head, *(_cells(row, names) for row in table)]


def _cells(row: Row, names: list[str]) -> tuple[str, ...]:
    scores = [_score(row.bits_per_byte, row.interval), *(_score(*row.accuracies.get(name, (None, None))) for name in names)]
    counts = ("" if n is None else f"{n:,.0f}" for n in (row.seeds, row.tokens_per_s, row.parameters))
    return (row.model, row.claim or "", *scores, *counts)


def _score(value: float | None, half: float | None) -> str:
    return "" if value is None else f"{value:.3f}" + (f" ± {half:.3f}" if half else "")


def as_text(table: list[Row]) -> str:
    """The table for a terminal; the point of every score stands in one column."""
    lines = shown(table)
    width = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    left = range(len(lines[0]) - 3)
    rows = ["   ".join(f"{cell:{'<' if c in left else '>'}{width[c]}}" for c, cell in enumerate(line)).rstrip() for line in lines]
    return "\n".join([rows[0], "─" * max(map(len, rows)), *rows[1:]])


def as_csv(groups: list[Group]) -> str:
    """One line for each run: what tells it apart, what it cost, every score with its standard error, where it came from."""
    fields, _ = differences(groups)
    lines = [_line(group, record, fields) for group in groups for record in group.records]
    scores = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(scores), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(group: Group, record: Record, fields: list[str]) -> dict:
    config = flattened(record.config)
    line = dict(model=group.label, seed=config.get("seed", 0), **{f: config.get(f, "") for f in fields})
    line |= {k: getattr(record, k) for k in ("updates", "tokens", "flops", "seconds", "tokens_per_s", "parameters")}
    for name, score in record.scores.items():
        line |= {name: score["value"], f"{name}_se": score.get("se", ""), f"{name}_claims": score.get("claims", "")}
    return line | dict(commit=record.commit, workdir=str(record.workdir))
