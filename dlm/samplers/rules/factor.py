"""As many of the most confident positions as their confidence justifies (Fast-dLLM).

    reveal the n most confident, n the largest with (n + 1)(1 − c_(n)) < factor

c_(1) ≥ c_(2) ≥ …: the largest probabilities (arXiv:2505.22618, theorem 1 and algorithm 2, factor).
If n tokens each have probability above 1 − 1/(n + 1), the product of their laws has the same mode
as their joint law. A step is never slower than the schedule: `steps` is the largest number of
passes in a block. Scores equal to 1e-5 are a tie, in which the left position comes first.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Factor(Rule):
    """The most confident positions, fewer the less confident they are."""

    factor: float = 1.0

    claims: ClassVar[str] = "no law: the order depends on the confidence"

    def __post_init__(self):
        if not 0 <= self.factor <= 1e6:
            raise ValueError(f"factor={self.factor} must not be negative")

    def choose(self, prediction, view: StepView):
        """Returns the positions that the factor allows, and those of the schedule."""
        undecided_BR = view.undecided()
        top_BR = jnp.where(undecided_BR, prediction.confidence("top"), -1.0)
        rank_BR = positions.ranks(top_BR)
        n_BR = rank_BR + 1
        allowed_BR = undecided_BR & ((n_BR + 1) * (1 - top_BR) < self.factor)
        count_B1 = jnp.where(allowed_BR, n_BR, 0).max(1, keepdims=True)
        return undecided_BR & ((rank_BR < count_B1) | view.first(undecided_BR, top_BR))
