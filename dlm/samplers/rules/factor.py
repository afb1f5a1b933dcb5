"""As many of the surest positions as their confidence pays for (Fast-dLLM, arXiv:2505.22618, theorem 1 and algorithm 2, factor).

    reveal the n surest, n the largest with (n + 1)(1 − c_(n)) < factor          c_(1) ≥ c_(2) ≥ …: the largest probabilities

If n tokens each have probability above 1 − 1/(n + 1), the product of their laws has the same mode as their joint law. A step is never
slower than the schedule: `steps` is the largest number of passes in a block. Of positions that are equal to 1e-5 the left is the surer.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dlm.core.contracts import Canvas
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Factor(Rule):
    factor: float = 1.0

    claims: ClassVar = "no law: the order depends on the confidence"

    def __post_init__(self):
        if not 0 <= self.factor <= 1e6:
            raise ValueError(f"factor={self.factor} must not be negative")

    def positions(self, prediction, canvas: Canvas, view: StepView):
        masked_BL = view.masked(canvas)
        sure_BL = jnp.where(masked_BL, prediction.confidence("top"), -1.0)
        rank_BL = positions.ranks(sure_BL)
        n_BL = rank_BL + 1
        pays_BL = masked_BL & ((n_BL + 1) * (1 - sure_BL) < self.factor)
        most_B1 = jnp.where(pays_BL, n_BL, 0).max(1, keepdims=True)
        return masked_BL & ((rank_BL < most_B1) | view.first(masked_BL, sure_BL))
