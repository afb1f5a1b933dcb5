"""A score and what it was measured on, as a row of evals.jsonl records it. No JAX.

    a run's own    its config's evaluators, their settings, sampler and seed, on its held-out text
    another        a score for which `evaluate` was called otherwise; the row records in `differs`
                   how: {"data": "x.txt", "sampler.steps": 4}

Rows of earlier versions lack some of this. A missing facet is UNKNOWN: it never separates scores,
but it is reported.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from dlm.core.intervals import half, shared, student

Score = dict[str, Any]  # a row of evals.jsonl
Scores = Sequence[Score]
Fields = dict[str, Any]  # flat: {'sampler.steps': 4}
Interval = tuple[float, float]  # (mean, half of its 95 % interval)
Apart = dict[int, list[str]]  # index of a score → facets
Format = Callable[[float], str]

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
_OWN_TEXT = (None, "held_out")  # the values of `data` in a row about the run's own text
# Evaluators that use the run's sampler as it is, apart from its temperature.
_SAMPLED = ("samples", "gen_ppl", "infill")
_MEMBERS = ("objective", "text", "data.source")


def flattened(config: Any, above: str = "") -> Fields:
    """Returns {'nn.width': 64, …}; a member that is only a name gets a field `name`."""
    if isinstance(config, dict):
        fields: Fields = {}
        for key, value in config.items():
            dotted = f"{above}.{key}" if above else key
            fields |= flattened(value, dotted)
        return fields
    if above in _MEMBERS and isinstance(config, str):
        above = f"{above}.name"
    return {above: config}


def changed(own: dict, current: dict, above: str) -> Fields:
    """Returns {'sampler.steps': 4}: the fields of `current` that the config has otherwise.

    Args:
        own: a plain section of the run's config
        current: the same section in a call of `evaluate`
        above: the dotted name of the section
    """
    before = flattened(own, above)
    fields = {}
    after = flattened(current, above)
    for field, value in after.items():
        # Compared as JSON, in which a tuple and a list are the same.
        old = before.get(field)
        if json.dumps(old) != json.dumps(value):
            fields[field] = value
    return fields


def differs(score: Score, config: dict) -> Fields:
    """Returns how the call differed from the run's config; {} for a score of the run's own."""
    if "differs" in score:
        return score["differs"]

    # An earlier version recorded the settings instead, so they are compared here.
    fields: Fields = {}
    if score.get("data") not in _OWN_TEXT:
        fields["data"] = score["data"]
    evaluator = score.get("eval")
    evals = config.get("evals") or {}
    section = f"evals.{evaluator}"
    settings = score.get("settings")
    fields |= _changed_in(section, evals.get(evaluator), settings)
    if evaluator in _SAMPLED:
        before = _without_temperature(config.get("sampler"))
        after = _without_temperature(score.get("sampler"))
        fields |= _changed_in("sampler", before, after)
    return fields


def _without_temperature(sampler: dict | None) -> dict:
    # An evaluator has a temperature of its own.
    return dict(sampler or {}, temperature=None)


def _changed_in(section: str, own: dict | None, current: dict | None) -> Fields:
    if not own or not current:
        return {}
    # A field that the code gained later is in one of the two alone: it has not changed.
    common = {}
    for field, setting in current.items():
        if field in own:
            common[field] = setting
    return changed(own, common, section)


def differences_text(score: Score, config: dict) -> str:
    """Returns 'data=x.txt (162 bytes, a1b2c3d4), evals.bound.windows=2', or '' for an own score."""
    # A text is named by its content too, since a file may change.
    parts = []
    for field, value in differs(score, config).items():
        part = f"{field}={value}"
        if field == "data" and text(score):
            part += f" ({text(score)})"
        parts.append(part)
    return ", ".join(parts)


def text(score: Score) -> str:
    """Returns '4,934 bytes, a1b2c3d4' of the text that was scored, or '' where it is unknown."""
    known = score.get("text") or {}
    if not {"bytes", "sha256"} <= known.keys():
        return ""
    digest = known["sha256"]
    return f"{known['bytes']:,} bytes, {digest[:8]}"


def own(evals: Scores, config: dict) -> dict[str, Score]:
    """Returns the scores of the run's own, by name."""
    # Only these may be compared between runs without a remark.
    rows = [score for score in evals if not differs(score, config)]
    return newest(rows)


def newest(evals: Scores) -> dict[str, Score]:
    """Returns, for each name, the last score at the newest step that has one."""
    return {score["name"]: score for score in _by_step(evals)}


def others(evals: Scores, config: dict) -> list[Score]:
    """Returns, for each name and each way to call otherwise, the last score at the newest step."""
    last = {}
    for score in _by_step(evals):
        if differs(score, config):
            call = differences_text(score, config)
            judge = _key(score.get("judge", {}))
            task = _key(score.get("task", {}))
            last[score["name"], call, judge, task] = score
    return list(last.values())


def _by_step(evals: Scores) -> list[Score]:
    # The sort is stable: rows of one step stay in the order of writing.
    return sorted(evals, key=lambda score: score.get("step", 0))


def _key(known: dict) -> str:
    return known.get("sha256") or json.dumps(known)


def value(score: Score) -> float:
    """Returns the number, NaN where it is not finite, which JSON cannot represent."""
    number = score["value"]
    return math.nan if number is None else number


def finite(score: Score) -> bool:
    return math.isfinite(value(score))


def interval(score: Score) -> float:
    """Returns half of the 95 % interval of one score alone; NaN where its error is unknown."""
    se = score.get("se", 0.0)
    error = math.nan if se is None else se
    trials = score.get("trials", 0)
    return half(value(score), error, trials)


def identity(score: Score) -> dict[str, str]:
    """Returns, by facet, what scores must have in common to be averaged.

    A facet is UNKNOWN where the row does not record it.
    """
    # Since rows have `differs`, a row without a judge or a task has none.
    missing = "" if "differs" in score else UNKNOWN
    known = dict.fromkeys(FACETS, UNKNOWN)
    if "step" in score:
        known["step"] = str(score["step"])
    if "text" in score:
        scored_text = score["text"] or {}
        known["text"] = scored_text.get("sha256", "")
    if "settings" in score:
        known["settings"] = _json(_settings(score))
    if "sampler" in score or "differs" in score:
        known["sampler"] = _json(score.get("sampler"))
    known["claim"] = score.get("claims", UNKNOWN)
    known["judge"] = known["task"] = missing
    if "judge" in score:
        known["judge"] = _json(score["judge"])
    if "task" in score:
        known["task"] = score["task"].get("sha256", "")
    known["version of the evaluating code"] = score.get("commit", UNKNOWN)
    return known


def _settings(score: Score) -> dict:
    """The evaluator's settings; a judge that the row identifies is no setting as well."""
    settings = dict(score.get("settings") or {})
    if "judge" in score:
        settings.pop("judge", None)
    return settings


def _json(part: Any) -> str:
    return json.dumps(part, sort_keys=True)


def alike(scores: Scores) -> tuple[list[int], Apart]:
    """Divides scores into those that may be averaged and the others.

    Returns (indices of the largest class of equal identity, {index of another score: the facets in
    which it differs}). Of equally large classes the first is used. An unknown facet of a score is
    taken to be the one that most of the others have.
    """
    rows = [identity(score) for score in scores]
    for facet in FACETS:
        usual = _most_common(rows, facet)
        for row in rows:
            if row[facet] == UNKNOWN:
                row[facet] = usual

    # Scores of the largest class are averaged: its identity is the one to compare with.
    classes = Counter(tuple(row.values()) for row in rows)
    largest = max(classes, key=classes.__getitem__, default=())
    indices = []
    apart = {}
    for i, row in enumerate(rows):
        pairs = zip(row.items(), largest, strict=True)
        facets = [facet for (facet, known), usual in pairs if known != usual]
        if facets:
            apart[i] = facets
        else:
            indices.append(i)
    return indices, apart


def _most_common(rows: list[dict], facet: str) -> str:
    count = Counter(row[facet] for row in rows)
    count.pop(UNKNOWN, None)
    for known, _ in count.most_common(1):
        return known
    return UNKNOWN


def combined(scores: Scores) -> Interval:
    """Returns (mean, half of its 95 % interval) of one score of several seeds.

    half² = (t(0.975, n − 1) s / √n)² + [the seeds share what the errors are over] mean(halfᵢ²)

    The interval of a single seed is that of its own error. NaN where a value is not finite.
    """
    values = [value(score) for score in scores]
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan
    seeds = [score.get("seed") for score in scores]
    common = 0.0
    over = scores[0].get("over")
    if len(scores) == 1 or shared(over, seeds):
        # The spread over seeds does not contain an error that all of them share.
        squares = [interval(score) ** 2 for score in scores]
        mean_square = sum(squares) / len(squares)
        common = math.sqrt(mean_square)
    return spread(values, common)


def spread(values: Sequence[float], common: float = 0.0) -> Interval:
    """Returns (mean, half of the 95 % interval over seeds).

    `common` is half of the interval of what all the seeds have in common.
    """
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return mean, common
    # math.fsum: the sums do not depend on the order of the runs.
    squares = [(number - mean) ** 2 for number in values]
    variance = math.fsum(squares) / (count - 1) / count
    over_seeds = student(count - 1) * math.sqrt(variance)
    return mean, math.hypot(over_seeds, common)


def shown(number: Format, mean: float, error: float | None) -> str:
    """Returns '2.000 ± 0.012', '0.500 ± unknown', '2.000' without an error, or 'not finite'."""
    if not math.isfinite(mean):
        return "not finite"
    if error is None or error == 0:
        return number(mean)
    width = number(error) if math.isfinite(error) else "unknown"
    return f"{number(mean)} ± {width}"
