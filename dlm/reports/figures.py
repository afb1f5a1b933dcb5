"""The figures of the report page: which plots a set of models has, and what they show."""

import html
import json
from collections.abc import Iterator
from typing import NamedTuple

from dlm.reports import fairness, plots, scores, table
from dlm.reports.groups import Group, all_records
from dlm.reports.record import Record

Groups = list[Group]
Rows = list[table.Row]

PRICES = {  # of a model's quality: attribute of a record → label
    "flops": "training FLOPs",
    "parameters": "parameters",
    "tokens": "tokens read",
    "seconds": "training seconds at the median speed",
}
# Columns of the metrics that the training loop and the network write, whatever the objective is.
# Every other column is a metric of the objective's own.
_TRAINING = {
    "step",
    "loss",
    "bits_per_byte",
    "lr",
    "grad_norm",
    "skipped",
    "empty",
    "tokens_per_s",
    "share_of_peak",
    "seconds",
}
_ROUTING = "router_"


class Quality(NamedTuple):
    """A score that is drawn where a run has it."""

    label: str
    lower_is_better: bool


QUALITIES = {
    "gen_bits_per_byte": Quality("bits/byte of the samples under the judge", True),
    "entropy": Quality("entropy of the samples, nats per token", False),
    "distinct_2": Quality("distinct pairs of tokens in the samples", False),
    "token_accuracy": Quality("infilled tokens that are the original ones", False),
    "ece": Quality("expected calibration error", True),
}


def figures(groups: Groups, rows: Rows) -> Iterator[str]:
    """Yields the figures that have something to show, each with its heading."""
    yield _bits_per_byte(groups, rows)
    yield from _curves(groups)
    # Equal quality at a lower price is better, whichever the price.
    for attribute, label in PRICES.items():
        yield _cost(groups, attribute, label)
    for name, quality in _qualities(groups).items():
        yield from _quality(groups, name, quality)


def _bits_per_byte(groups: Groups, rows: Rows) -> str:
    scored = []
    for row in rows:
        if row.bits_per_byte is not None:
            scored.append((row.model, row.bits_per_byte, row.interval or 0.0))
    drawing = plots.bars(scored, "held-out bits/byte, 95 % interval")
    warnings = _warnings(groups, "bits_per_byte", *table.BASELINES)
    return _figure("Held-out bits per byte", drawing, warnings)


def _curves(groups: Groups) -> Iterator[str]:
    """What was logged while training."""
    curves = {
        "bits_per_byte": ("Training", "training bits/byte"),
        "bound.bits_per_byte": ("Held-out text while training", "held-out bits/byte"),
        "router_imbalance": (
            "Load of the experts' devices while training",
            "(busiest − idlest) / even load",
        ),
        "router_dropped": (
            "Tokens that experts dropped while training",
            "share dropped",
        ),
    }
    for name in own_metrics(groups):
        label = name.replace("_", " ")
        curves[name] = (f"{_capitalised(label)} while training", label)
    for name, (title, label) in curves.items():
        yield _figure(title, plots.curves(groups, name, label))


def own_metrics(groups: Groups) -> list[str]:
    """Returns the metrics that objectives log themselves, such as a share of masked tokens."""
    names: dict[str, None] = {}
    for record in all_records(groups):
        for row in record.metrics:
            # A file may contain anything: only numbers can be drawn.
            numbers = {name for name, value in row.items() if _is_number(value)}
            names |= dict.fromkeys(name for name in row if name in numbers)
    return [name for name in names if _is_own(name)]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_own(name: str) -> bool:
    # A score of an evaluator has a dot in its name: 'bound.bits_per_byte'.
    return name not in _TRAINING and not name.startswith(_ROUTING) and "." not in name


def _cost(groups: Groups, attribute: str, label: str) -> str:
    """Bits per byte against what a model costs."""

    def cost(record: Record) -> float | None:
        return getattr(record, attribute)

    # A model without a known cost is not drawn: `pareto` omits points of cost 0.
    points = []
    for group in groups:
        mean = group.score("bits_per_byte")
        if mean is not None:
            points.append((group.label, group.mean(cost) or 0, *mean))
    drawing = plots.pareto(points, label, "held-out bits/byte")
    warnings = _warnings(groups, "bits_per_byte", *table.BASELINES)
    return _figure(f"Quality against {label}", drawing, warnings)


def _qualities(groups: Groups) -> dict[str, Quality]:
    """The scores to draw: those above, and every accuracy."""
    # A task's accuracy needs no entry: its name says what it is.
    qualities = dict(QUALITIES)
    for record in all_records(groups):
        for name in record.scores:
            if name.endswith("_accuracy") and name not in qualities:
                qualities[name] = Quality(name.replace("_", " "), False)
    return qualities


def _quality(groups: Groups, name: str, quality: Quality) -> Iterator[str]:
    """A score as bars, and against the number of passes."""
    label, lower = quality
    title = _capitalised(label)
    warnings = _warnings(groups, name)
    means = []
    for group in groups:
        mean = group.score(name)
        if mean is not None:
            means.append((group.label, *mean))
    bars = plots.bars(means, f"{label}, 95 % interval")
    yield _figure(title, bars, warnings)
    drawing = plots.pareto(passes(groups, name), "forward passes", label, lower)
    yield _figure(f"{title} against passes", drawing, warnings)


def passes(groups: Groups, name: str) -> list[plots.Priced]:
    """Returns (label, passes, mean, half of its 95 % interval) of a score for each sampler.

    All else is as in the runs' configs.
    """
    # The mean is over the seeds that used the same sampler.
    points = []
    for group in groups:
        by_sampler: dict[str, list[scores.Score]] = {}
        for record in group.records:
            for score in _of_any_sampler(record, name):
                sampler = json.dumps(score.get("sampler"))
                by_sampler.setdefault(sampler, []).append(score)
        for rows in by_sampler.values():
            indices, _ = scores.alike(rows)
            alike = [rows[i] for i in indices]
            mean_passes = sum(score["nfe"] for score in alike) / len(alike)
            points.append((group.label, mean_passes, *scores.combined(alike)))
    return points


def _of_any_sampler(record: Record, name: str) -> list[scores.Score]:
    """A run's scores of that name at its last update, whose calls differed in the sampler alone."""
    # The run's own sampler is one of the points.
    candidates = []
    for score in record.others:
        fields = scores.differs(score, record.config)
        if all(field.startswith("sampler.") for field in fields):
            candidates.append(score)
    candidates += record.scores.values()
    chosen = []
    for score in candidates:
        # An older checkpoint is another model.
        current = score.get("step", record.updates) == record.updates
        if score["name"] == name and score.get("nfe") and current:
            chosen.append(score)
    return chosen


def _warnings(groups: Groups, *names: str) -> str:
    """Warnings inside a figure whose bars or points do not compare."""
    lines = fairness.different(groups, names)
    return "".join(f"<p class=warning>{html.escape(line)}</p>" for line in lines)


def _figure(title: str, drawing: str, warnings: str = "") -> str:
    if not drawing:
        return ""
    return f"<figure><h2>{html.escape(title)}</h2>{warnings}{drawing}</figure>"


def _capitalised(label: str) -> str:
    return label[0].upper() + label[1:]
