"""σ_i = η σ_max softmax_i(−ψ): tokens of which the network was least sure come back first (ReMDM-conf, arXiv:2503.00307, section 4.1).

ψ_i is the probability of token i when it was revealed, over all tokens that stand; masks have σ = 0. Their reveal probability is the plain
one, so there are more masks than in the plain process.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.samplers.remask.base import Remask, largest


@dataclass(frozen=True)
class ConfidenceWeighted(Remask):
    eta: float = 1.0

    marginals: ClassVar = "changed"

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must be in [0, 1]")

    def rate(self, output, canvas, view, alpha_t_B1, alpha_s_B1):
        token_BL = view.active_BL & (canvas.z_BL != view.process.vocab.mask)
        share_BL = jax.nn.softmax(jnp.where(token_BL, -jnp.exp(view.logprob_BL), -jnp.inf), 1)
        return self.eta * largest(alpha_t_B1, alpha_s_B1) * jnp.where(token_BL, share_BL, 0.0)
