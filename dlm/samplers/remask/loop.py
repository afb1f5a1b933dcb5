"""Time stops while tokens are exchanged (ReMDM-loop, arXiv:2503.00307, section 4.2).

    u > begin             the noise falls from α = 0 to α_on, no token is remasked
    end ≤ u ≤ begin       α = α_on; σ = min(η, σ_max), and as many masks are revealed as remasked
    u < end               α rises from α_on to 1, no token is remasked

u: the share of steps that is left.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from dlm.samplers.remask.base import Remask, alphas, largest


@dataclass(frozen=True)
class Loop(Remask):
    """σ of `cap`, while time stops."""

    eta: float = 0.02
    begin: float = 0.55  # share of the steps that is left when time stops
    end: float = 0.05  # and when it continues
    alpha: float = 0.9  # α_on

    marginals: ClassVar[Literal["kept", "changed"]] = "changed"

    def __post_init__(self):
        in_range = 0 <= self.eta <= 1 and 0 < self.alpha < 1
        if not (in_range and 0 < self.end < self.begin < 1):
            raise ValueError(
                f"eta={self.eta} and alpha={self.alpha} must be in (0, 1), and "
                f"0 < end={self.end} < begin={self.begin} < 1"
            )

    def clock(self, u, process):
        """Returns the time of the noise when a share u of the steps is left."""
        stopped_time = process.schedule.time_of(1 - self.alpha)
        falling = 1 - (1 - u) / (1 - self.begin) * (1 - stopped_time)
        later = jnp.where(u >= self.end, stopped_time, stopped_time * u / self.end)
        return jnp.where(u >= self.begin, falling, later)

    def sigma(self, output, view):
        """Returns σ, [B, 1]."""
        alpha_t_B1, alpha_s_B1 = alphas(view)
        stopped_B1 = jnp.abs(alpha_t_B1 - alpha_s_B1) < 1e-6
        return jnp.where(stopped_B1, jnp.minimum(self.eta, largest(view)), 0.0)
