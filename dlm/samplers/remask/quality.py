"""The tokens that a trained judge finds worst become masks again (PRISM, arXiv:2510.01384).

    σ_i = 1 at the ⌈fraction · n⌉ of n tokens with the lowest q_i, where q_i < threshold          q_i ≈ P(token i is right | all others)

The judge is a head of the network (`nn.heads=("quality",)`), trained by `objectives.prism`.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.core.errors import UserError
from dlm.samplers import positions
from dlm.samplers.remask.base import Remask


@dataclass(frozen=True)
class QualityHead(Remask):
    fraction: float = 0.1  # of the tokens that stand, in each step
    threshold: float = 0.5

    marginals: ClassVar = "changed"

    def __post_init__(self):
        if not (0 <= self.fraction <= 1 and 0 <= self.threshold <= 1):
            raise ValueError(
                f"fraction={self.fraction} and threshold={self.threshold} must be in [0, 1]"
            )

    def rate(self, output, canvas, view, alpha_t_B1, alpha_s_B1):
        if not output.heads or "quality" not in output.heads:
            raise UserError(
                "samplers.remask.quality needs a network with nn.heads=('quality',), trained by objectives.prism"
            )
        token_BL = view.active_BL & (canvas.z_BL != view.process.vocab.mask)
        quality_BL = jnp.where(token_BL, jax.nn.sigmoid(output.heads["quality"]), 2.0)
        most_B1 = jnp.ceil(self.fraction * token_BL.sum(1, keepdims=True) - 1e-3)
        worst_BL = positions.ranks(-quality_BL) < most_B1
        return (token_BL & worst_BL & ~positions.reaches(quality_BL, self.threshold)).astype(
            jnp.float32
        )
