"""samplers.remask — which tokens become masks again; here is what all such rules have in common (ReMDM, arXiv:2503.00307).

    a token becomes a mask with probability σ;   a mask is revealed with probability (α_s − (1 − σ) α_t)/(1 − α_t)

With σ ≤ σ_max = min(1, (1 − α_s)/α_t), alike for all positions, the share of masks at every time is that of the plain process
(theorem 3.1); σ = 0 is the plain process. Under rules that count, as many more masks are revealed as come back.
"""

from typing import ClassVar, Literal

import jax
import jax.numpy as jnp


class Remask:
    """The base of all; a subclass is a frozen dataclass with `rate`."""

    marginals: ClassVar[
        Literal["kept", "changed"]
    ]  # whether the share of masks is that of the plain process
    ends: ClassVar[Literal["unmasked", "unchanged", "late"]] = "late"

    def clock(self, u, process):
        """The time of the noise when a share u of the steps is left."""
        return u

    def rate(self, output, canvas, view, alpha_t_B1: jax.Array, alpha_s_B1: jax.Array) -> jax.Array:
        """σ_BL, from 0 to 1; `now.logprob_BL` tells how sure the network was of each token when it was revealed."""
        raise TypeError(f"{type(self).__name__} has no rate()")


def largest(alpha_t, alpha_s):
    """σ_max."""
    return jnp.clip((1 - alpha_s) / jnp.maximum(alpha_t, 1e-6), 0, 1)
