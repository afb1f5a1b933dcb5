"""evals — one evaluator per file; here is how all of them tell an uncertainty: by leaving each item out once."""

from collections.abc import Callable, Sequence

import numpy as np


def jackknife(statistic: Callable[[np.ndarray], float], items_N: Sequence) -> tuple[float, float]:
    """(value, standard error) of a statistic of N items, rows of an array: se² = (N − 1)/N Σ (θ₋ᵢ − θ̄)², 0 for a single item."""
    items_N = np.asarray(items_N)
    value, count = float(statistic(items_N)), len(items_N)
    if count < 2:
        return value, 0.0
    without_N = np.array([statistic(np.delete(items_N, i, 0)) for i in range(count)])
    return value, float(np.sqrt((count - 1) / count * np.square(without_N - without_N.mean()).sum()))
