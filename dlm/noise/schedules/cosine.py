"""The cosine schedule, 1 − α = sin(πt/2) (MD4, arXiv:2406.04329, table 1)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class Cosine:
    """Destroys tokens fast at small times, slowly near t = 1."""

    def noised(self, t: Array) -> Array:
        """Returns 1 − α(t)."""
        return jnp.sin(jnp.pi / 2 * t)

    def time_of(self, noised: Array) -> Array:
        """Returns the time t with 1 − α(t) = noised."""
        # Rounding may bring a probability above 1.
        return 2 / jnp.pi * jnp.arcsin(jnp.minimum(noised, 1.0))

    def rate(self, t: Array) -> Array:
        """Returns −α'(t)/(1 − α(t))."""
        # cos over sin, times the inner derivative.
        return jnp.pi / 2 / jnp.tan(jnp.pi / 2 * t)
