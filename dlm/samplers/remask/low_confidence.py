"""Improbable tokens become masks, and are not replaced at once (T2M, arXiv:2604.18738).

    σ_i = 1 where p(z_i | z) < threshold, else 0                         ("remask, don't replace")

A masked position misleads no other, a wrong replacement does. A row is finished when it has no
masks and no token was remasked, or after all steps.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from dlm.core.contracts import StopsWhen
from dlm.samplers import positions
from dlm.samplers.remask.base import Remask


@dataclass(frozen=True)
class LowConfidence(Remask):
    """All tokens threshold a probability."""

    threshold: float = 0.1

    marginals: ClassVar[Literal["kept", "changed"]] = "changed"
    stops_when: ClassVar[StopsWhen] = "unchanged"

    def __post_init__(self):
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} must be in [0, 1]")

    def sigma(self, output, view):
        """Returns σ_BR."""
        token_BR = view.decided()
        # Masks have no log-probability.
        ids_BR = jnp.where(token_BR, view.canvas.z_BL, view.process.vocab.eos)
        prob_BR = jnp.exp(output.prediction.log_prob(ids_BR))
        return (token_BR & ~positions.reaches(prob_BR, self.threshold)).astype(
            jnp.float32
        )
