"""As many positions at once as an error budget allows (EB-sampler, arXiv:2505.24857, eq. 8).

    reveal the k surest, k the largest with Σ_{i ≤ k} H_(i) − max_{i ≤ k} H_(i) ≤ budget      H_(i): entropies, nats, surest first

The left side bounds what is lost by drawing k tokens independently: their joint entropy lies between the largest and the sum. With budget 0
one token at a time is revealed, and with it all that are certain. A step is never slower than the schedule: `steps` is the largest
number of passes in a block. Of positions that are equal to 1e-5 the left is the surer.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class EntropyBounded(Rule):
    budget: float = 0.1  # nats
    confidence: Literal["entropy", "top", "margin"] = (
        "entropy"  # the order in which the budget is spent
    )

    claims: ClassVar = "no law: the order depends on the confidence"

    def __post_init__(self):
        if not 0 <= self.budget <= 1e6:
            raise ValueError(f"budget={self.budget} must not be negative")

    def positions(self, prediction, canvas: Canvas, view: StepView):
        masked_BL, sure_BL = view.masked(canvas), prediction.confidence(self.confidence)
        rank_BL = positions.ranks(jnp.where(masked_BL, sure_BL, -jnp.inf))
        entropy_BL = jnp.where(masked_BL, -prediction.confidence("entropy"), 0.0)
        sorted_BL = jnp.put_along_axis(
            jnp.zeros_like(entropy_BL), rank_BL, entropy_BL, 1, inplace=False
        )
        lost_BL = jnp.cumsum(sorted_BL, 1) - jax.lax.cummax(sorted_BL, axis=1)
        most_B1 = (lost_BL <= self.budget + 1e-6).sum(1, keepdims=True)  # lost grows with k
        return masked_BL & ((rank_BL < most_B1) | view.first(masked_BL, sure_BL))
