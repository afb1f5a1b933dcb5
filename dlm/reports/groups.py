"""Runs that differ in their seed alone are one model: its name, its mean and how far that mean can be trusted.

mean ± t(0.975, n − 1) · s / √n      over n seeds; with one run ± 1.96 standard errors of the score itself, where it has one
"""

import json
import math
import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from dlm.reports.record import Record

# 97.5 % quantiles of Student's t for 1 … 30 degrees of freedom; beyond, the normal one.
T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
T975 += (2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)
_FIRST = ("objective", "nn", "text", "data", "optim")  # sections whose fields name a model before others do


@dataclass(frozen=True)
class Group:
    label: str
    records: list[Record]

    def mean(self, of) -> float | None:
        """The mean of a number of each record; None where none has it."""
        values = [v for v in map(of, self.records) if v is not None]
        return statistics.fmean(values) if values else None

    def score(self, name: str) -> tuple[float, float] | None:
        """(mean, half of its 95 % interval) of a score; None where no run has it."""
        found = [r.scores[name] for r in self.records if name in r.scores]
        if not found:
            return None
        return interval([s["value"] for s in found], found[0].get("se") or 0.0)


def interval(values: list[float], error: float = 0.0) -> tuple[float, float]:
    """(mean, half of the 95 % interval) over seeds; of a single value by its own standard error."""
    if len(values) == 1:
        return values[0], 1.96 * error
    t = T975[len(values) - 2] if len(values) < 32 else 1.96
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values))


def grouped(records: list[Record]) -> list[Group]:
    """The models, in the order of their first runs. Runs of one config and one seed stay apart, by their directories."""
    kept = defaultdict(list)
    for r in records:
        kept[json.dumps({f: v for f, v in flattened(r.config).items() if _tells(f)}, sort_keys=True)].append(r)
    parts = []
    for runs in kept.values():
        apart = len({r.config.get("seed") for r in runs}) < len(runs)
        parts += [[r] for r in runs] if apart else [runs]
    names = labels([flattened(part[0].config) for part in parts])
    twice = {name for name in names if names.count(name) > 1}
    return [Group(f"{n} ({p[0].workdir.name})" if n in twice else n, p) for n, p in zip(names, parts, strict=True)]


def labels(configs: list[dict[str, Any]]) -> list[str]:
    """Short names: the objective, and of the other fields as few as tell the configs apart."""
    order = {section: i for i, section in enumerate(_FIRST)}
    fields = sorted({f for c in configs for f in c}, key=lambda f: (order.get(f.split(".")[0], len(order)), len(f.split(".")), f))
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


def flattened(config: Any, above: str = "") -> dict[str, Any]:
    """{'nn.width': 64, …}; a member given by its name alone has a `name` like any other."""
    if isinstance(config, dict):
        return {k: v for key, value in config.items() for k, v in flattened(value, f"{above}.{key}" if above else key).items()}
    if above in ("objective", "text", "data.source") and isinstance(config, str):
        above = f"{above}.name"
    return {above: config}


def differences(groups: list[Group]) -> tuple[list[str], list[list[str]]]:
    """(fields, a row of values for each group) of what differs between the configs, seeds apart."""
    configs = [flattened(g.records[0].config) for g in groups]
    fields = [f for f in dict.fromkeys(f for c in configs for f in c) if _tells(f) and _classes(configs, [f]) > 1]
    return fields, [["" if c.get(f) is None else str(c[f]) for f in fields] for c in configs]
