"""benches — one bench per file, behind `python -m dlm.bench NAME`; here is how all of them measure: in turns, again and again.

    round 1  A B C    round 2  A B C    …        ratio of a round = A/B; told is the median over rounds and its range

A machine that slows down half-way slows A and B alike, so their ratio within a round stands where seconds do not.
"""

import statistics
import time
from collections.abc import Callable, Sequence


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range, as every bench tells a number."""
    return dict(median=statistics.median(values), min=min(values), max=max(values))


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """The spread of the ratios of paired rounds."""
    return spread([a / b for a, b in zip(above, below, strict=True)])


def in_turns(measures: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each measure once per round, in the order given, after one round that does not count (compilation, caches)."""
    results: dict[str, list[float]] = {name: [] for name in measures}
    for n in range(rounds + 1):
        for name, measure in measures.items():
            value = measure()
            if n:
                results[name].append(value)
    return results


def seconds_each(call: Callable[[], object], times: int) -> list[float]:
    """Seconds of each of `times` calls, each of which must wait for its own result."""
    results = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        results.append(time.perf_counter() - begin)
    return results


def formatted(values: dict[str, float], scale: float = 1.0, digits: int = 2, unit: str = "") -> str:
    """'1.02 (1.00–1.05)'."""
    low, mid, high = (f"{values[k] * scale:.{digits}f}" for k in ("min", "median", "max"))
    return f"{mid}{unit} ({low}–{high})"
