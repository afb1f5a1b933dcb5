"""σ_i = η σ_max softmax_i(−ψ): the least probable tokens are remasked first (ReMDM-conf).

ψ_i is the probability of token i when it was revealed, and the softmax is over all tokens
(arXiv:2503.00307, section 4.1); masks have σ = 0. Their reveal probability is the plain one, so
there are more masks than in the plain process.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.samplers.remask.base import Remask, largest


@dataclass(frozen=True)
class ConfidenceWeighted(Remask):
    """A share of the largest σ, distributed by confidence."""

    eta: float = 1.0

    marginals: ClassVar[Literal["kept", "changed"]] = "changed"

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must be in [0, 1]")

    def sigma(self, output, view):
        """Returns σ_BR."""
        token_BR = view.decided()
        doubt_BR = jnp.where(token_BR, -jnp.exp(view.log_prob_BR), -jnp.inf)
        share_BR = jnp.where(token_BR, jax.nn.softmax(doubt_BR, 1), 0.0)
        return self.eta * largest(view) * share_BR
