"""Models side by side: what each scored, beside what gzip makes of the held-out bytes.

    masked            bound    3.014 ± 0.012    3    7,012    1,049,600
    ar                exact    2.151            1    7,390    1,049,600
    gzip -9           exact    2.702

A score keeps its claim, bound or exact, and is never printed without its 95 % interval, where it has one. The table holds the scores of the
runs' own (`scores.own`); others stand in lines of their own (`others`).
"""

import csv
import io
from dataclasses import dataclass, field

from dlm.reports import scores
from dlm.reports.groups import Group, differences
from dlm.reports.record import Record
from dlm.reports.scores import BASELINES, flattened

LEGEND = (
    "± is half of the 95 % interval: over the seeds (Student's t), with what all of them were asked (documents, problems, windows) or "
    "the noise that they share added under the root; of one run, 1.96 standard errors of the score, which say nothing of other seeds; of a "
    "share of answers, the farther end of Wilson's interval. Scores of equal seeds were drawn with equal noise, so that what two models "
    "differ by, seed by seed, is known better than either."
)
HEAD = ("model", "claim", "held-out bits/byte", "seeds", "tokens/s", "parameters")


@dataclass(frozen=True)
class Row:
    model: str
    claim: str | None = None
    bits_per_byte: float | None = None
    interval: float | None = None  # half of the 95 % interval
    seeds: int | None = None  # in the mean of bits per byte; of a model that has none, its runs
    tokens_per_s: float | None = None
    parameters: int | None = None
    step: int | None = None
    data: str | None = None
    commits: tuple[str, ...] = ()
    accuracies: dict[str, tuple[float, float]] = field(
        default_factory=dict
    )  # of tasks and infilling, each with half of its interval


@dataclass(frozen=True)
class Other:
    """A score for which something else was asked than a run's config does."""

    model: str
    asked: str  # what, such as 'evals.bound.windows=2'
    name: str
    value: float
    interval: float | None
    seeds: int


def rows(groups: list[Group]) -> list[Row]:
    """A row per model, then one per baseline that any of the runs has scored."""
    records = [r for g in groups for r in g.records]
    return [_model(group) for group in groups] + [
        Row(
            title,
            "exact",
            scores.value(record.scores[name]),
            data=record.text_of(record.scores[name]),
        )
        for name, title in BASELINES.items()
        for record in [r for r in records if name in r.scores][:1]
    ]


def _model(group: Group) -> Row:
    kept = group.kept("bits_per_byte")
    last = (kept or group.records)[-1]
    score, (value, half) = (
        last.scores.get("bits_per_byte", {}),
        group.score("bits_per_byte") or (None, None),
    )
    return Row(
        model=group.label,
        claim=score.get("claims"),
        bits_per_byte=value,
        interval=half or None,
        seeds=len(kept or group.records),
        tokens_per_s=group.mean(lambda r: r.tokens_per_s),
        parameters=last.parameters,
        step=score.get("step", last.updates),
        data=last.text_of(score),
        commits=tuple(dict.fromkeys(r.commit for r in group.records)),
        accuracies={
            n: group.score(n)
            for n in sorted({n for r in group.records for n in r.scores if n.endswith("_accuracy")})
        },
    )


def others(groups: list[Group]) -> list[Other]:
    """What `evaluate` was asked otherwise, by model; means over runs that were asked the same of the same."""
    found = []
    for group in groups:
        asked: dict[tuple, list[dict]] = {}
        for record in group.records:
            for score in record.others:
                words = scores.told(score, record.config)
                step = (
                    f", at step {score['step']:,}"
                    if score.get("step", record.updates) != record.updates
                    else ""
                )
                same = {
                    facet: v for facet, v in scores.identity(score).items() if facet != "sampler"
                }
                asked.setdefault((words + step, score["name"], *same.values()), []).append(score)
        for (words, name, *_), same in asked.items():
            value, half = scores.combined(same)
            found.append(Other(group.label, words, name, value, half or None, len(same)))
    return found


def shown(table: list[Row]) -> list[tuple[str, ...]]:
    """The table's head and lines as text, with a column for every accuracy; unknown is blank."""
    names = list(dict.fromkeys(name for row in table for name in row.accuracies))
    head = (*HEAD[:3], *(name.replace("_", " ") for name in names), *HEAD[3:])
    return [head, *(_cells(row, names) for row in table)]


def _cells(row: Row, names: list[str]) -> tuple[str, ...]:
    told = [
        score(row.bits_per_byte, row.interval),
        *(score(*row.accuracies.get(name, (None, None))) for name in names),
    ]
    counts = (
        "" if n is None else f"{n:,.0f}" for n in (row.seeds, row.tokens_per_s, row.parameters)
    )
    return (row.model, row.claim or "", *told, *counts)


def score(value: float | None, half: float | None) -> str:
    """A mean with half of its 95 % interval, in three decimals."""
    return "" if value is None else scores.shown("{:.3f}".format, value, half)


def as_text(table: list[Row]) -> str:
    """The table for a terminal; the point of every score stands in one column."""
    lines = shown(table)
    width = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    left = range(len(lines[0]) - 3)
    rows = [
        "   ".join(
            f"{cell:{'<' if c in left else '>'}{width[c]}}" for c, cell in enumerate(line)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([rows[0], "─" * max(map(len, rows)), *rows[1:]])


def others_as_text(found: list[Other]) -> str:
    """A line for each model and what was asked of it; '' where there is nothing."""
    lines: dict[tuple[str, str], list[str]] = {}
    for o in found:
        seeds = f" ({o.seeds} seeds)" if o.seeds > 1 else ""
        lines.setdefault((o.model, o.asked), []).append(
            f"{o.name} {score(o.value, o.interval)}{seeds}"
        )
    told = "".join(
        f"  {model}, {asked}: {', '.join(each)}\n" for (model, asked), each in lines.items()
    )
    return f"other scores, not in the table:\n{told}" if told else ""


def as_csv(groups: list[Group]) -> str:
    """One line for each run: what tells it apart, what it cost, every score of its own with its standard error, where it came from."""
    fields, _ = differences(groups)
    lines = [_line(group, record, fields) for group in groups for record in group.records]
    names = dict.fromkeys(name for line in lines for name in line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _line(group: Group, record: Record, fields: list[str]) -> dict:
    config = flattened(record.config)
    line = dict(
        model=group.label, seed=config.get("seed", 0), **{f: config.get(f, "") for f in fields}
    )
    line |= {
        k: getattr(record, k)
        for k in ("updates", "tokens", "flops", "seconds", "tokens_per_s", "parameters")
    }
    for name, score in record.scores.items():
        line |= {
            name: scores.value(score),
            f"{name}_se": score.get("se", ""),
            f"{name}_claims": score.get("claims", ""),
        }
    return line | dict(commit=record.commit, workdir=str(record.workdir))
