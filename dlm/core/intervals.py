"""How uncertain a score is: its standard error, and half of a 95 % interval. No JAX."""

import math
from collections.abc import Callable, Sequence

import numpy as np

Z = 1.96  # the normal law's 97.5 % quantile
_DRAWN = (
    "noise",
    "samples",
)  # what each seed draws for itself; whatever else an error is over is the same for all seeds


def jackknife(statistic: Callable[[np.ndarray], float], items_N: Sequence) -> tuple[float, float]:
    """(value, standard error) of a statistic of N items, rows of an array: se² = (N − 1)/N Σ (θ₋ᵢ − θ̄)².

    The error of a single item is not known, which is NaN.
    """
    items_N = np.asarray(items_N)
    value, count = float(statistic(items_N)), len(items_N)
    if count < 2:
        return value, math.nan
    without_N = np.array([statistic(np.delete(items_N, i, 0)) for i in range(count)])
    return value, float(
        np.sqrt((count - 1) / count * np.square(without_N - without_N.mean()).sum())
    )


def half(value: float, se: float, trials: int = 0) -> float:
    """Half of the 95 % interval of one score: 1.96 standard errors, or of a share of `trials` the farther end of Wilson's interval.

    Where trials hang together, as the tokens of a document do, the error says how many they are worth: n = p (1 − p) / se² + 1.
    """
    if not trials or not 0 <= value <= 1:
        return Z * se
    return wilson(value, value * (1 - value) / se**2 + 1 if se > 0 else trials)


def wilson(share: float, trials: float) -> float:
    """From a share to the farther end of its 95 % interval (Wilson 1927): never 0, since no number of trials makes a share certain.

    centre = (p + z²/2n) / (1 + z²/n),     half = z √(p (1 − p)/n + z²/4n²) / (1 + z²/n)
    """
    scale = 1 + Z**2 / trials
    centre = (share + Z**2 / (2 * trials)) / scale
    return (
        abs(centre - share)
        + Z * math.sqrt(share * (1 - share) / trials + (Z / (2 * trials)) ** 2) / scale
    )


def student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t with so many degrees of freedom: √ν tan θ, θ by bisection."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 0.95 else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """P(|t| < √ν tan θ), a finite sum for an integer ν (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    odd, sine, cosine = freedom % 2, math.sin(angle), math.cos(angle)
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def shared(over: str | None, seeds: Sequence[int | None]) -> bool:
    """Whether the errors of several runs' scores are the same draw, so that the spread over the runs does not show them.

    `over` is what the errors are over, and `seeds` are those of the evaluations.
    """
    return over not in _DRAWN or len(set(seeds)) < len(seeds)
