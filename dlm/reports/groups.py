"""Runs that differ in their seed alone are one model: its name, its mean and how far that mean can be trusted.

A mean is over runs of equal config, updates and version of the code, and over scores that were measured alike (`scores.identity`); what
differs is left out of it and named (`Group.apart`), or is a model of its own.
"""

import json
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from dlm.reports import scores
from dlm.reports.record import Record
from dlm.reports.scores import flattened

_FIRST = (
    "objective",
    "nn",
    "text",
    "data",
    "optim",
)  # sections whose fields name a model before others do


@dataclass(frozen=True)
class Group:
    label: str
    records: list[Record]

    def mean(self, of) -> float | None:
        """The mean of a number of each record; None where none has it."""
        values = [v for v in map(of, self.records) if v is not None]
        return statistics.fmean(values) if values else None

    def score(self, name: str) -> tuple[float, float] | None:
        """(mean, half of its 95 % interval) of a score of the runs' own; None where no run has it."""
        scored = self.kept(name)
        return scores.combined([r.scores[name] for r in scored]) if scored else None

    def kept(self, name: str) -> list[Record]:
        """The runs whose score of that name is in the mean."""
        having = [r for r in self.records if name in r.scores]
        kept, _ = scores.alike([r.scores[name] for r in having])
        return [having[i] for i in kept]

    def apart(self, name: str) -> list[tuple[Record, list[str]]]:
        """The runs whose score of that name is not, each with what it differs in."""
        having = [r for r in self.records if name in r.scores]
        _, apart = scores.alike([r.scores[name] for r in having])
        return [(having[i], facets) for i, facets in apart.items()]


def grouped(records: list[Record]) -> list[Group]:
    """The models, in the order of their first runs. Runs of one config and one seed stay apart, by their directories."""
    kept = defaultdict(list)
    for r in records:
        config = {f: v for f, v in flattened(r.config).items() if _tells(f)}
        kept[json.dumps([config, r.updates, r.commit], sort_keys=True)].append(r)
    parts = []
    for runs in kept.values():
        apart = len({r.config.get("seed") for r in runs}) < len(runs)
        parts += [[r] for r in runs] if apart else [runs]
    names = labels([flattened(part[0].config) for part in parts])
    names = [
        n + "".join(f", {word}" for word in _unfinished(p[0]))
        for n, p in zip(names, parts, strict=True)
    ]
    names = _told_apart(names, [f"commit {p[0].code()}" for p in parts])
    names = _told_apart(names, [p[0].workdir.name for p in parts])
    return [Group(n, p) for n, p in zip(names, parts, strict=True)]


def _unfinished(record: Record) -> list[str]:
    """How far a run has come that is short of its steps."""
    steps = record.config.get("steps")
    return (
        [f"{record.updates:,} of {steps:,} updates"]
        if isinstance(steps, int) and record.updates < steps
        else []
    )


def _told_apart(names: list[str], by: list[str]) -> list[str]:
    """The names, those that come more than once with a word by which some of them differ."""
    words = defaultdict(set)
    for name, word in zip(names, by, strict=True):
        words[name].add(word)
    return [
        f"{name} ({word})" if len(words[name]) > 1 else name
        for name, word in zip(names, by, strict=True)
    ]


def labels(configs: list[dict[str, Any]]) -> list[str]:
    """Short names: the objective, and of the other fields as few as tell the configs apart."""
    order = {section: i for i, section in enumerate(_FIRST)}
    fields = sorted(
        {f for c in configs for f in c},
        key=lambda f: (order.get(f.split(".")[0], len(order)), len(f.split(".")), f),
    )
    # Models of different data are told apart by these before all else.
    fields.insert(0, "data.source.name")
    chosen = ["objective.name"]
    for field in [f for f in fields if _tells(f) and f != "objective.name"]:
        if _classes(configs, [*chosen, field]) > _classes(configs, chosen):
            chosen.append(field)
    return [", ".join(_shown(f, c[f]) for f in chosen if f in c) or "run" for c in configs]


def _tells(field: str) -> bool:
    """Whether a field says which model a run is; where its arrays lie does not."""
    return field != "seed" and not field.startswith("mesh.")


def _classes(configs: list[dict], fields: list[str]) -> int:
    return len({json.dumps([c.get(f) for f in fields]) for c in configs})


def _shown(field: str, value: Any) -> str:
    *parents, leaf = field.split(".")
    if leaf == "name":
        text = str(value).rpartition(".")[2]
        return text if parents == ["objective"] else f"{parents[-1]}={text}"
    return f"{leaf}={value}"


def differences(groups: list[Group]) -> tuple[list[str], list[list[str]]]:
    """(fields, a row of values for each group) of what differs between the configs, seeds apart."""
    configs = [flattened(g.records[0].config) for g in groups]
    fields = [
        f
        for f in dict.fromkeys(f for c in configs for f in c)
        if _tells(f) and _classes(configs, [f]) > 1
    ]
    return fields, [["" if c.get(f) is None else str(c[f]) for f in fields] for c in configs]
