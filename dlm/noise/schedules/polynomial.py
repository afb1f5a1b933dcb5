"""The polynomial schedule, 1 − α = t^power (MD4, arXiv:2406.04329, table 1)."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

# Times below 1e-6 are never drawn. With a smaller power a part of the bound would lie there:
# t^0.2 leaves 6 % of it.
SMALLEST_POWER, LARGEST_POWER = 0.5, 8.0


@dataclass(frozen=True)
class Polynomial:
    """Destroys tokens late for powers above 1, early for powers below 1."""

    # Above 1 most tokens are destroyed late.
    power: float = 2.0

    def __post_init__(self):
        if not SMALLEST_POWER <= self.power <= LARGEST_POWER:
            reason = "where no part of the bound lies below the smallest time"
            limits = f"from {SMALLEST_POWER} to {LARGEST_POWER}"
            raise ValueError(f"power={self.power} must be {limits}, {reason}")

    def noised(self, t: Array) -> Array:
        """Returns 1 − α(t)."""
        return jnp.power(t, self.power)

    def time_of(self, noised: Array) -> Array:
        """Returns the time t with 1 − α(t) = noised."""
        return jnp.power(noised, 1 / self.power)

    def rate(self, t: Array) -> Array:
        """Returns −α'(t)/(1 − α(t))."""
        return self.power / t
