"""The linear schedule, 1 − α = t (MDLM, arXiv:2406.07524)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class Linear:
    """Destroys tokens at a constant speed."""

    def noised(self, t: Array) -> Array:
        """Returns 1 − α(t)."""
        return jnp.asarray(t)

    def time_of(self, noised: Array) -> Array:
        """Returns the time t with 1 − α(t) = noised."""
        return jnp.asarray(noised)

    def rate(self, t: Array) -> Array:
        """Returns −α'(t)/(1 − α(t))."""
        # α' is −1 everywhere.
        return 1 / t
