"""The tokens that a trained head finds worst become masks again (PRISM, arXiv:2510.01384).

    σ_i = 1 at the ⌈fraction · n⌉ of n tokens with the lowest q_i, where q_i < threshold

q_i ≈ P(token i is right | all others) is a head of the network (`nn.heads=("quality",)`), trained
by `objectives.prism`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.core.errors import UserError
from dlm.samplers import positions
from dlm.samplers.remask.base import Remask


@dataclass(frozen=True)
class QualityHead(Remask):
    """The worst tokens, by the quality head."""

    fraction: float = 0.1  # of the tokens, in each step
    threshold: float = 0.5  # estimated probability that a token is right

    marginals: ClassVar[Literal["kept", "changed"]] = "changed"

    def __post_init__(self):
        if not (0 <= self.fraction <= 1 and 0 <= self.threshold <= 1):
            raise ValueError(
                f"fraction={self.fraction} and threshold={self.threshold} must be in [0, 1]"
            )

    def sigma(self, output, view):
        """Returns σ_BR."""
        if "quality" not in output.heads:
            raise UserError(
                "samplers.remask.quality needs a network with nn.heads=('quality',), trained by "
                "objectives.prism"
            )
        token_BR = view.decided()
        # 2 is more than any probability: masks come last.
        quality_BR = jnp.where(token_BR, jax.nn.sigmoid(output.heads["quality"]), 2.0)
        count_B1 = jnp.ceil(self.fraction * token_BR.sum(1, keepdims=True) - 1e-3)
        worst_BR = positions.ranks(-quality_BR) < count_B1
        bad_BR = ~positions.reaches(quality_BR, self.threshold)
        return (token_BR & worst_BR & bad_BR).astype(jnp.float32)
