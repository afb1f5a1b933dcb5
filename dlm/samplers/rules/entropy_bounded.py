"""As many positions at once as an error budget allows (EB-sampler, arXiv:2505.24857, eq. 8).

    reveal the k most confident, k the largest with Σ_{i ≤ k} H_(i) − max_{i ≤ k} H_(i) ≤ budget

H_(i): entropies in nats, most confident first. The left side bounds what is lost by drawing k
tokens independently: their joint entropy is between the largest and the sum. With budget 0 one
token at a time is revealed, and with it all that are certain. A step is never slower than the
schedule: `steps` is the largest number of passes in a block. Scores equal to 1e-5 are a tie, in
which the left position comes first.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class EntropyBounded(Rule):
    """The most confident positions, up to a bound on the error."""

    budget: float = 0.1  # nats
    # The order in which the budget is spent.
    confidence: Literal["entropy", "top", "margin"] = "entropy"

    claims: ClassVar[str] = "no law: the order depends on the confidence"

    def __post_init__(self):
        if not 0 <= self.budget <= 1e6:
            raise ValueError(f"budget={self.budget} must not be negative")

    def choose(self, prediction, view: StepView):
        """Returns the positions that the budget pays for, and those of the schedule."""
        undecided_BR = view.undecided()
        score_BR = prediction.confidence(self.confidence)
        rank_BR = positions.ranks(jnp.where(undecided_BR, score_BR, -jnp.inf))
        # Entropies in the order of the ranks.
        entropy_BR = jnp.where(undecided_BR, -prediction.confidence("entropy"), 0.0)
        empty_BR = jnp.zeros_like(entropy_BR)
        sorted_BR = jnp.put_along_axis(empty_BR, rank_BR, entropy_BR, 1, inplace=False)
        # The loss grows with k.
        lost_BR = jnp.cumsum(sorted_BR, 1) - jax.lax.cummax(sorted_BR, axis=1)
        count_B1 = (lost_BR <= self.budget + 1e-6).sum(1, keepdims=True)
        return undecided_BR & (
            (rank_BR < count_B1) | view.first(undecided_BR, score_BR)
        )
