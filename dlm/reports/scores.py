"""A score and what it was measured on, as a row of evals.jsonl tells it. No JAX.

    a run's own    its config's evaluators, their settings, sampler and seed, on the held-out text that it began with
    another        whatever `evaluate` was asked otherwise, which the row keeps in `differs`: {"data": "x.txt", "sampler.steps": 4}

Rows of earlier versions lack some of this. What they lack is unknown (`UNKNOWN`), which nothing is told apart by, but which is said.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from dlm.core.intervals import half, shared, student

UNKNOWN = "?"
BASELINES = {
    "gzip_bits_per_byte": "gzip -9",
    "xz_bits_per_byte": "xz -9",
    "order0_bits_per_byte": "order-0 entropy",
}
FACETS = (
    "step",
    "text",
    "settings",
    "sampler",
    "claim",
    "judge",
    "task",
    "version of the evaluating code",
)
_OURS = (None, "held_out")  # what a row says that it was scored on where that is the run's own text
_SAMPLED = (
    "samples",
    "gen_ppl",
    "infill",
)  # evaluators that take the run's sampler as it is, but for its temperature


def flattened(config: Any, above: str = "") -> dict[str, Any]:
    """{'nn.width': 64, …}; a member given by its name alone has a `name` like any other."""
    if isinstance(config, dict):
        return {
            k: v
            for key, value in config.items()
            for k, v in flattened(value, f"{above}.{key}" if above else key).items()
        }
    if above in ("objective", "text", "data.source") and isinstance(config, str):
        above = f"{above}.name"
    return {above: config}


def changed(own: dict, asked: dict, above: str) -> dict[str, Any]:
    """{'sampler.steps': 4}: the fields of a plain section `above` that were asked for otherwise than the run's config has them."""
    before, now = flattened(own, above), flattened(asked, above)
    return {
        field: value
        for field, value in now.items()
        if json.dumps(before.get(field)) != json.dumps(value)
    }


def differs(score: dict, config: dict) -> dict[str, Any]:
    """What was asked otherwise than the run's config does; {} for a score of the run's own."""
    if "differs" in score:
        return score["differs"]
    found = {} if score.get("data") in _OURS else dict(data=score["data"])
    pairs = [
        (
            f"evals.{score.get('eval')}",
            (config.get("evals") or {}).get(score.get("eval")),
            score.get("settings"),
        )
    ]
    if score.get("eval") in _SAMPLED:
        pairs.append(
            (
                "sampler",
                dict(config.get("sampler") or {}, temperature=None),
                dict(score.get("sampler") or {}, temperature=None),
            )
        )
    for above, own, asked in pairs:
        if own and asked:  # a field that came later is in one of them alone
            found |= changed(
                own, {field: value for field, value in asked.items() if field in own}, above
            )
    return found


def told(score: dict, config: dict) -> str:
    """The same in words: 'data=x.txt (162 bytes, a1b2c3d4), evals.bound.windows=2'; '' for a score of the run's own."""
    parts = []
    for field, value in differs(score, config).items():
        parts.append(
            f"{field}={value}" + (f" ({text(score)})" if field == "data" and text(score) else "")
        )
    return ", ".join(parts)


def text(score: dict) -> str:
    """'4,934 bytes, a1b2c3d4' of the text that was scored, where that is known."""
    known = score.get("text") or {}
    return (
        f"{known['bytes']:,} bytes, {known['sha256'][:8]}"
        if {"bytes", "sha256"} <= known.keys()
        else ""
    )


def own(evals: Sequence[dict], config: dict) -> dict[str, dict]:
    """The scores of the run's own, by name."""
    return newest([score for score in evals if not differs(score, config)])


def newest(evals: Sequence[dict]) -> dict[str, dict]:
    """Of each name the latest score at the newest step that has one."""
    return {score["name"]: score for score in sorted(evals, key=lambda score: score.get("step", 0))}


def others(evals: Sequence[dict], config: dict) -> list[dict]:
    """Of each name and each way to ask otherwise the latest score, at the newest step that has one."""
    found = {}
    for score in sorted(evals, key=lambda score: score.get("step", 0)):
        if differs(score, config):
            asked = [
                known.get("sha256") or json.dumps(known)
                for known in (score.get("judge", {}), score.get("task", {}))
            ]
            found[score["name"], told(score, config), *asked] = score
    return list(found.values())


def value(score: dict) -> float:
    """The number, NaN where it is not finite, which JSON cannot say."""
    return math.nan if score["value"] is None else score["value"]


def finite(score: dict) -> bool:
    return math.isfinite(value(score))


def interval(score: dict) -> float:
    """Half of the 95 % interval of one score by itself; NaN where its error is not known."""
    se = score.get("se", 0.0)
    return half(value(score), math.nan if se is None else se, score.get("trials", 0))


def identity(score: dict) -> dict[str, str]:
    """What scores must have in common to be one mean, by facet; UNKNOWN where the row does not say."""
    old = "differs" not in score
    settings = {
        field: v
        for field, v in (score.get("settings") or {}).items()
        if not (field == "judge" and "judge" in score)
    }
    known = {
        "step": str(score["step"]) if "step" in score else UNKNOWN,
        "text": UNKNOWN if "text" not in score else (score["text"] or {}).get("sha256", ""),
        "settings": UNKNOWN if "settings" not in score else json.dumps(settings, sort_keys=True),
        "sampler": UNKNOWN
        if old and "sampler" not in score
        else json.dumps(score.get("sampler"), sort_keys=True),
        "claim": score.get("claims", UNKNOWN),
        "judge": json.dumps(score["judge"], sort_keys=True)
        if "judge" in score
        else UNKNOWN
        if old
        else "",
        "task": score["task"].get("sha256", "") if "task" in score else UNKNOWN if old else "",
        "version of the evaluating code": score.get("commit", UNKNOWN),
    }
    return {facet: known[facet] for facet in FACETS}


def alike(scores: Sequence[dict]) -> tuple[list[int], dict[int, list[str]]]:
    """(which of the scores may be one mean, {which other: the facets in which it differs}): the largest class, of equal ones the first.

    What is unknown of a score is taken to be what most of the others have.
    """
    rows = [identity(score) for score in scores]
    usual = {
        f: next((v for v, _ in Counter(r[f] for r in rows).most_common() if v != UNKNOWN), UNKNOWN)
        for f in FACETS
    }
    filled = [tuple(usual[f] if row[f] == UNKNOWN else row[f] for f in FACETS) for row in rows]
    kept = Counter(filled).most_common(1)[0][0] if filled else ()
    apart = {
        i: [f for f, a, b in zip(FACETS, row, kept, strict=True) if a != b]
        for i, row in enumerate(filled)
        if row != kept
    }
    return [i for i, row in enumerate(filled) if row == kept], apart


def combined(scores: Sequence[dict]) -> tuple[float, float]:
    """(mean, half of its 95 % interval) of one score of several seeds; of one seed by its own error. NaN where one is not finite.

    half² = (t(0.975, n − 1) s / √n)² + [the seeds share what the errors are over] mean(halfᵢ²)
    """
    values, errors = [value(score) for score in scores], [interval(score) for score in scores]
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    common = shared(scores[0].get("over"), [score.get("seed") for score in scores])
    return spread(
        values,
        math.sqrt(sum(e * e for e in errors) / len(errors)) if common or len(scores) == 1 else 0.0,
    )


def spread(values: Sequence[float], common: float = 0.0) -> tuple[float, float]:
    """(mean, half of the 95 % interval over seeds), with half of the interval of what all of them have in `common`."""
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return mean, common
    variance = math.fsum((v - mean) ** 2 for v in values) / (count - 1) / count
    return mean, math.hypot(student(count - 1) * math.sqrt(variance), common)


def shown(number: Callable[[float], str], mean: float, error: float | None) -> str:
    """'2.000 ± 0.012', '0.500 ± unknown', '2.000' where there is no error, 'not finite'."""
    if not math.isfinite(mean):
        return "not finite"
    if error is None or error == 0:
        return number(mean)
    return f"{number(mean)} ± {number(error) if math.isfinite(error) else 'unknown'}"
