"""Groups runs that differ only in their seed: the name of a model, its mean score, its interval.

A mean is over runs of equal config, updates and version of the code, and over scores that were
measured in the same way (`scores.identity`). A run whose score was measured otherwise is excluded
from that mean and named (`Group.apart`); a run of another config is a model of its own.
"""

import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dlm.reports import scores
from dlm.reports.record import Record
from dlm.reports.scores import flattened

Config = dict[str, Any]  # flat: {'nn.width': 64, …}
Table = list[list[str]]

# A model is named by the fields of these sections before those of any other.
_SECTIONS = ["objective", "nn", "text", "data", "optim"]


@dataclass(frozen=True)
class Group:
    """The runs of one model, one for each seed."""

    label: str
    records: list[Record]

    def mean(self, of: Callable[[Record], float | None]) -> float | None:
        """Returns the mean of a number of each record; None where no record has it."""
        numbers = []
        for record in self.records:
            number = of(record)
            if number is not None:
                numbers.append(number)
        return statistics.fmean(numbers) if numbers else None

    def score(self, name: str) -> tuple[float, float] | None:
        """Returns (mean, half of its 95 % interval) of a score; None where no run has it."""
        records = self.kept(name)
        if not records:
            return None
        rows = [record.scores[name] for record in records]
        return scores.combined(rows)

    def kept(self, name: str) -> list[Record]:
        """Returns the runs whose score of that name is in the mean."""
        records = self._scored(name)
        rows = [record.scores[name] for record in records]
        # A score that was measured on another text, or by another judge, is no sample of this mean.
        indices, _ = scores.alike(rows)
        return [records[i] for i in indices]

    def apart(self, name: str) -> list[tuple[Record, list[str]]]:
        """Returns the runs whose score is not in the mean, each with what it differs in."""
        records = self._scored(name)
        rows = [record.scores[name] for record in records]
        _, excluded = scores.alike(rows)
        return [(records[i], facets) for i, facets in excluded.items()]

    def _scored(self, name: str) -> list[Record]:
        return [record for record in self.records if name in record.scores]


def all_records(groups: list[Group]) -> list[Record]:
    """Returns the runs of all models, in their order."""
    records = []
    for group in groups:
        records += group.records
    return records


def grouped(records: list[Record]) -> list[Group]:
    """Returns the models, in the order of their first runs.

    Runs of one config and one seed are different models, named by their directories.
    """
    by_model = defaultdict(list)
    for record in records:
        key = _model(record)
        by_model[key].append(record)

    # The key has no seed, so each list is one model over its seeds.
    parts = []
    for runs in by_model.values():
        seeds = {run.config.get("seed") for run in runs}
        # A second run with the same seed cannot be in the same mean.
        if len(seeds) < len(runs):
            for run in runs:
                parts.append([run])
        else:
            parts.append(runs)

    # Where configs do not distinguish two models, their progress, code or directory does.
    firsts = [runs[0] for runs in parts]
    configs = [flattened(record.config) for record in firsts]
    names = list(map(_with_progress, labels(configs), firsts))
    commits = [f"commit {record.code()}" for record in firsts]
    names = _distinguished(names, commits)
    folders = [record.workdir.name for record in firsts]
    names = _distinguished(names, folders)
    return list(map(Group, names, parts))


def labels(configs: list[Config]) -> list[str]:
    """Returns short names: the objective, and as few other fields as distinguish the configs."""
    # The objective always comes first, whether or not it distinguishes.
    every: set[str] = set()
    for config in configs:
        every |= config.keys()
    every.discard("objective.name")
    candidates = [field for field in every if _names_model(field)]

    # A field is used only where it splits a class that the fields before it leave together.
    chosen = ["objective.name"]
    classes = _classes(configs, chosen)
    for field in sorted(candidates, key=_rank):
        split = _classes(configs, [*chosen, field])
        if split > classes:
            chosen.append(field)
            classes = split
    return [_label(config, chosen) for config in configs]


def differences(groups: list[Group]) -> tuple[list[str], Table]:
    """Returns (fields, a row of values for each group) of what differs between the configs."""
    configs = []
    every: dict[str, None] = {}
    for group in groups:
        config = flattened(group.records[0].config)
        configs.append(config)
        every |= dict.fromkeys(config)
    # A field that is equal everywhere says nothing about a difference.
    fields = []
    for field in filter(_names_model, every):
        if _classes(configs, [field]) > 1:
            fields.append(field)
    rows = []
    for config in configs:
        row = []
        for field in fields:
            value = config.get(field)
            row.append("" if value is None else str(value))
        rows.append(row)
    return fields, rows


def _model(record: Record) -> str:
    """A key that is equal for runs of one model."""
    # Runs that have done more updates, or with other code, are other models.
    config = {}
    for field, value in flattened(record.config).items():
        if _names_model(field):
            config[field] = value
    parts = [config, record.updates, record.commit]
    return json.dumps(parts, sort_keys=True)


def _with_progress(name: str, record: Record) -> str:
    """The name, and the progress of a run that has not done all of its updates."""
    steps = record.config.get("steps")
    if not isinstance(steps, int) or record.updates >= steps:
        return name
    return f"{name}, {record.updates:,} of {steps:,} updates"


def _distinguished(names: list[str], words: list[str]) -> list[str]:
    """The names; those that occur more than once, with a word in which they differ."""
    # A word that is the same for all runs of a name would only lengthen it.
    by_name = defaultdict(set)
    for name, word in zip(names, words, strict=True):
        by_name[name].add(word)
    distinguished = []
    for name, word in zip(names, words, strict=True):
        several = len(by_name[name]) > 1
        distinguished.append(f"{name} ({word})" if several else name)
    return distinguished


def _label(config: Config, fields: list[str]) -> str:
    # A config may lack a field that another one has.
    words = []
    for field in fields:
        if field in config:
            word = _shown(field, config[field])
            words.append(word)
    return ", ".join(words) or "run"


def _rank(field: str) -> tuple[int, int, str]:
    """The place of a field: by section, then the shallow ones, then by name."""
    path = field.split(".")
    section = path[0]
    order = len(_SECTIONS)
    # Models of different data are told apart by these before all else.
    if field == "data.source.name":
        order = -1
    elif section in _SECTIONS:
        order = _SECTIONS.index(section)
    return order, len(path), field


def _names_model(field: str) -> bool:
    """Whether a field says which model a run is; its seed and its devices do not."""
    return field != "seed" and not field.startswith("mesh.")


def _classes(configs: list[Config], fields: list[str]) -> int:
    """The number of different configs, by these fields alone."""
    # JSON makes lists hashable.
    keys = set()
    for config in configs:
        values = [config.get(field) for field in fields]
        keys.add(json.dumps(values))
    return len(keys)


def _shown(field: str, value: Any) -> str:
    """'width=64'; a member is shown by the name of its file, 'rule=ordered', or 'ar' alone."""
    *parents, leaf = field.split(".")
    if leaf != "name":
        return f"{leaf}={value}"
    _, _, member = str(value).rpartition(".")
    if parents == ["objective"]:
        return member
    return f"{parents[-1]}={member}"
