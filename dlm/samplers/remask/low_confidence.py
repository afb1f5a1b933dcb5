"""Tokens that the network no longer believes become masks, and are not replaced at once (T2M, "remask, don't replace", arXiv:2604.18738).

    σ_i = 1 where p(z_i | z) < threshold, else 0

A masked position misleads nobody, a wrong replacement does. A row is done when it has no masks and none came back, or after all steps.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dlm.samplers import positions
from dlm.samplers.remask.base import Remask


@dataclass(frozen=True)
class LowConfidence(Remask):
    threshold: float = 0.1

    marginals: ClassVar = "changed"
    ends: ClassVar = "unchanged"

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must be in [0, 1]")

    def rate(self, output, canvas, view, alpha_t_B1, alpha_s_B1):
        token_BL = view.active_BL & (canvas.z_BL != view.process.vocab.mask)
        log_BL = output.prediction.log_prob(
            jnp.where(token_BL, canvas.z_BL, view.process.vocab.eos)
        )
        return (token_BL & ~positions.reaches(jnp.exp(log_BL), self.threshold)).astype(jnp.float32)
