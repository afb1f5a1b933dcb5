"""Time stands still while tokens are exchanged (ReMDM-loop, arXiv:2503.00307, section 4.2).

u > begin             the noise falls from α = 0 to α_on, nothing is masked again
end ≤ u ≤ begin       α = α_on; σ = min(η, σ_max), and as many masks are revealed as come back
u < end               α rises from α_on to 1, nothing is masked again              u: the share of steps that is left
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dlm.samplers.remask.base import Remask, largest


@dataclass(frozen=True)
class Loop(Remask):
    eta: float = 0.02
    begin: float = 0.55
    end: float = 0.05
    alpha: float = 0.9  # α_on

    marginals: ClassVar = "changed"

    def __post_init__(self):
        if not (0 <= self.eta <= 1 and 0 < self.alpha < 1 and 0 < self.end < self.begin < 1):
            raise ValueError(
                f"eta={self.eta} and alpha={self.alpha} must be in (0, 1), and 0 < end={self.end} < begin={self.begin} < 1"
            )

    def clock(self, u, process):
        held_time = process.schedule.time_of(1 - self.alpha)
        falling = 1 - (1 - u) / (1 - self.begin) * (1 - held_time)
        return jnp.where(
            u >= self.begin, falling, jnp.where(u >= self.end, held_time, held_time * u / self.end)
        )

    def rate(self, output, canvas, view, alpha_t_B1, alpha_s_B1):
        stands_B1 = jnp.abs(alpha_t_B1 - alpha_s_B1) < 1e-6
        return jnp.where(stands_B1, jnp.minimum(self.eta, largest(alpha_t_B1, alpha_s_B1)), 0.0)
