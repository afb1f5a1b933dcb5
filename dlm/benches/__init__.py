"""benches: one benchmark per file, behind `python -m dlm.bench NAME`; how all of them measure.

    round 1  A B C    round 2  A B C    …

The ratio of a round is A/B; its median over the rounds is reported, with the range. A machine that
slows down half-way slows A and B alike, so their ratio within a round is stable where seconds are
not.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

Spread = dict[str, float]  # median, min, max


def spread(values: Sequence[float]) -> Spread:
    """Returns median and range."""
    return dict(
        median=statistics.median(values),
        min=min(values),
        max=max(values),
    )


def ratio(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Returns the spread of the ratios of paired rounds."""
    pairs = zip(above, below, strict=True)
    return spread([a / b for a, b in pairs])


def in_turns(measures: Mapping[str, Callable], rounds: int) -> dict[str, list]:
    """Calls each measure once per round, in the order of the mapping; returns the values.

    One round more comes first and does not count: it compiles and fills caches.
    """
    results: dict[str, list] = {name: [] for name in measures}
    for n in range(rounds + 1):
        for name, measure in measures.items():
            # The first round compiles.
            value = measure()
            if n > 0:
                results[name].append(value)
    return results


def seconds_each(call: Callable[[], object], times: int) -> list[float]:
    """Returns the seconds of each of several calls, each of which waits for its own result."""
    results = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        results.append(time.perf_counter() - begin)
    return results


def formatted(
    values: Spread,
    scale: float = 1.0,
    digits: int = 2,
    unit: str = "",
) -> str:
    """Formats a spread as '1.02 (1.00–1.05)'."""
    # The range is beside the median: one number would hide the noise.
    numbers = [values[key] * scale for key in ("min", "median", "max")]
    low, middle, high = [f"{number:.{digits}f}" for number in numbers]
    return f"{middle}{unit} ({low}–{high})"
