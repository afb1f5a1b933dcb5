"""A table of models and their scores, beside what general-purpose compressors reach.

    masked            bound    3.014 ± 0.012    3    7,012    1,049,600
    ar                exact    2.151            1    7,390    1,049,600
    gzip -9           exact    2.702

A score keeps its claim, bound or exact, and is never printed without its 95 % interval, where it
has one. The table contains the scores of the runs' own (`scores.own`); other scores are listed
below it (`others`).
"""

import csv
import io
from dataclasses import dataclass, field

from dlm.reports import scores
from dlm.reports.groups import Group, all_records, differences
from dlm.reports.record import Record
from dlm.reports.scores import BASELINES, flattened

LEGEND = (
    "± is half of the 95 % interval: over the seeds (Student's t), with what all of them were "
    "asked (documents, problems, windows) or the noise that they share added under the root; of "
    "one run, 1.96 standard errors of the score, which say nothing of other seeds; of a share of "
    "answers, the farther end of Wilson's interval. Scores of equal seeds were drawn with equal "
    "noise, so that what two models differ by, seed by seed, is known better than either."
)
HEAD = ("model", "claim", "held-out bits/byte", "seeds", "tokens/s", "parameters")
_COSTS = ("updates", "tokens", "flops", "seconds", "tokens_per_s", "parameters")

Cells = tuple[str, ...]
Interval = tuple[float, float]  # (mean, half of its 95 % interval)


@dataclass(frozen=True)
class Row:
    """A model or a compressor; None where something is unknown."""

    model: str
    claim: str | None = None
    bits_per_byte: float | None = None
    interval: float | None = None  # half of the 95 % interval
    seeds: int | None = (
        None  # in the mean of bits per byte; without one, the number of runs
    )
    tokens_per_s: float | None = None
    parameters: int | None = None
    step: int | None = None
    data: str | None = None
    commits: Cells = ()
    accuracies: dict[str, Interval] = field(
        default_factory=dict
    )  # of tasks and infilling


@dataclass(frozen=True)
class Other:
    """A score of a call that differed from the run's config."""

    model: str
    call: str  # the difference, such as 'evals.bound.windows=2'
    name: str
    value: float
    interval: float | None
    seeds: int


def rows(groups: list[Group]) -> list[Row]:
    """Returns a row for each model, then one for each compressor that some run has scored."""
    lines = [_model(group) for group in groups]
    for name, title in BASELINES.items():
        # A compressor reads the text alone, so it scores the same beside every run.
        for record in all_records(groups):
            if name in record.scores:
                row = record.scores[name]
                value = scores.value(row)
                text = record.text_of(row)
                lines.append(Row(title, "exact", value, data=text))
                break
    return lines


def _model(group: Group) -> Row:
    # A model without a score still has a line, with its costs.
    records = group.kept("bits_per_byte") or group.records
    last = records[-1]
    row = last.scores.get("bits_per_byte", {})
    value = half = None
    mean = group.score("bits_per_byte")
    if mean is not None:
        value, half = mean
    commits = dict.fromkeys(record.commit for record in group.records)
    return Row(
        model=group.label,
        claim=row.get("claims"),
        bits_per_byte=value,
        interval=half or None,
        seeds=len(records),
        tokens_per_s=group.mean(_speed),
        parameters=last.parameters,
        step=row.get("step", last.updates),
        data=last.text_of(row),
        commits=tuple(commits),
        accuracies=_accuracies(group),
    )


def _speed(record: Record) -> float | None:
    return record.tokens_per_s


def _accuracies(group: Group) -> dict[str, Interval]:
    names: set[str] = set()
    for record in group.records:
        names |= record.scores.keys()
    accuracies = {}
    for name in sorted(names):
        mean = group.score(name)
        if name.endswith("_accuracy") and mean is not None:
            accuracies[name] = mean
    return accuracies


def others(groups: list[Group]) -> list[Other]:
    """Returns the scores of calls that differed from the config, by model.

    A mean is over runs that were called with the same differences and measured in the same way.
    """
    lines = []
    for group in groups:
        classes: dict[Cells, list[dict]] = {}
        for record in group.records:
            for row in record.others:
                key = _class(record, row)
                classes.setdefault(key, []).append(row)
        for key, alike in classes.items():
            call, name, *_ = key
            value, half = scores.combined(alike)
            interval = half or None
            line = Other(group.label, call, name, value, interval, seeds=len(alike))
            lines.append(line)
    return lines


def _class(record: Record, row: scores.Score) -> Cells:
    """The call, the name and the facets in which scores of one mean are equal."""
    call = scores.differences_text(row, record.config)
    step = row.get("step", record.updates)
    if step != record.updates:
        call += f", at step {step:,}"
    # The call names the sampler's changed fields; its other fields may differ from run to run.
    facets = scores.identity(row)
    del facets["sampler"]
    return call, row["name"], *facets.values()


def shown(table: list[Row]) -> list[Cells]:
    """Returns the head and the lines as text, a column for each accuracy; unknown is blank."""
    names: dict[str, None] = {}
    for row in table:
        names |= dict.fromkeys(row.accuracies)
    titles = [name.replace("_", " ") for name in names]
    # Scores are together, and the counts follow them.
    lines = [(*HEAD[:3], *titles, *HEAD[3:])]
    for row in table:
        lines.append(_cells(row, list(names)))
    return lines


def _cells(row: Row, names: list[str]) -> Cells:
    # Bits per byte come first, and the accuracies in the order of the head.
    means = [score(row.bits_per_byte, row.interval)]
    for name in names:
        value, half = row.accuracies.get(name, (None, None))
        means.append(score(value, half))
    counts = []
    for number in (row.seeds, row.tokens_per_s, row.parameters):
        counts.append("" if number is None else f"{number:,.0f}")
    return (row.model, row.claim or "", *means, *counts)


def score(value: float | None, half: float | None) -> str:
    """Returns a mean with half of its 95 % interval, in three decimals."""
    if value is None:
        return ""
    return scores.shown("{:.3f}".format, value, half)


def as_text(table: list[Row]) -> str:
    """Returns the table for a terminal: text to the left, and the three counts to the right."""
    # A column is as wide as its widest cell.
    lines = shown(table)
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligned = []
    for line in lines:
        cells = []
        for i, cell in enumerate(line):
            # The counts are read by their last digit.
            left = i < len(columns) - 3
            align = str.ljust if left else str.rjust
            cells.append(align(cell, widths[i]))
        row = "   ".join(cells)
        aligned.append(row.rstrip())
    head, *body = aligned
    rule = "─" * max(map(len, aligned))
    return "\n".join([head, rule, *body])


def others_as_text(others: list[Other]) -> str:
    """Returns a line for each model and call; '' where there is none."""
    # One line for each call, whatever number of scores it gave.
    parts: dict[Cells, list[str]] = {}
    for other in others:
        part = f"{other.name} {score(other.value, other.interval)}"
        if other.seeds > 1:
            part += f" ({other.seeds} seeds)"
        key = other.model, other.call
        parts.setdefault(key, []).append(part)
    lines = []
    for (model, call), listed in parts.items():
        lines.append(f"  {model}, {call}: {', '.join(listed)}\n")
    if not lines:
        return ""
    return "other scores, not in the table:\n" + "".join(lines)


def as_csv(groups: list[Group]) -> str:
    """Returns a line for each run: its differing fields, costs, own scores and origin."""
    # Runs may have different scores: a column is added where any run has it.
    fields, _ = differences(groups)
    lines = []
    names: dict[str, None] = {}
    for group in groups:
        for record in group.records:
            line = _csv_line(group.label, record, fields)
            lines.append(line)
            names |= dict.fromkeys(line)
    # Lines end alike on every platform.
    text = io.StringIO()
    writer = csv.DictWriter(text, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_line(label: str, record: Record, fields: list[str]) -> dict:
    config = flattened(record.config)
    line = {"model": label, "seed": config.get("seed", 0)}
    for name in fields:
        line[name] = config.get(name, "")
    for name in _COSTS:
        line[name] = getattr(record, name)
    for name, row in record.scores.items():
        line[name] = scores.value(row)
        line[f"{name}_se"] = row.get("se", "")
        line[f"{name}_claims"] = row.get("claims", "")
    line["commit"] = record.commit
    line["workdir"] = str(record.workdir)
    return line
