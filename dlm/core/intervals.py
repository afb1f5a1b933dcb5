"""Uncertainty of a score: its standard error, and half of a 95 % interval. No JAX."""

import math
from collections.abc import Callable, Sequence

import numpy as np

Z = 1.96  # the 97.5 % quantile of the normal distribution
_PER_SEED = ("noise", "samples")  # sources of error that each seed draws for itself


def jackknife(
    statistic: Callable[[np.ndarray], float], items_N: Sequence
) -> tuple[float, float]:
    """Return (value, standard error) of a statistic of N items, rows of an array.

    se² = (N − 1)/N Σ (θ₋ᵢ − θ̄)²; the error of a single item is unknown, which is NaN.
    """
    array_N = np.asarray(items_N)
    value, count = float(statistic(array_N)), len(array_N)
    if count < 2:
        return value, math.nan
    without_N = np.array([statistic(np.delete(array_N, i, 0)) for i in range(count)])
    squares = np.square(without_N - without_N.mean()).sum()
    return value, float(np.sqrt((count - 1) / count * squares))


def half(value: float, se: float, trials: int = 0) -> float:
    """Return half of the 95 % interval of one score.

    That is 1.96 standard errors, or for a share of `trials` the farther end of Wilson's interval.
    Where trials are correlated, as the tokens of a document are, the standard error gives their
    effective number: n = p (1 − p) / se² + 1.
    """
    if not trials or not 0 <= value <= 1:
        return Z * se
    effective = value * (1 - value) / se**2 + 1 if se > 0 else trials
    return wilson(value, effective)


def wilson(share: float, trials: float) -> float:
    """Return the distance from a share to the farther end of its 95 % interval (Wilson 1927).

    It is never 0, since no number of trials makes a share certain:

    centre = (p + z²/2n) / (1 + z²/n),     half = z √(p (1 − p)/n + z²/4n²) / (1 + z²/n)
    """
    scale = 1 + Z**2 / trials
    centre = (share + Z**2 / (2 * trials)) / scale
    variance = share * (1 - share) / trials + (Z / (2 * trials)) ** 2
    return abs(centre - share) + Z * math.sqrt(variance) / scale


def student(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t with so many degrees of freedom.

    It is √ν tan θ, with θ found by bisection.
    """
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        if _within(middle, freedom) < 0.95:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def _within(angle: float, freedom: int) -> float:
    """Return P(|t| < √ν tan θ), a finite sum for integer ν.

    Source: Abramowitz and Stegun 26.7.3 and 26.7.4.
    """
    odd, sine, cosine = freedom % 2, math.sin(angle), math.cos(angle)
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    if odd:
        return (angle + sine * total) * 2 / math.pi
    return sine * total


def shared(over: str | None, seeds: Sequence[int | None]) -> bool:
    """Return whether several runs' scores share one draw of errors.

    The spread over the runs then does not show these errors. `over` is the source of the errors,
    `seeds` are those of the evaluations.
    """
    return over not in _PER_SEED or len(set(seeds)) < len(seeds)
