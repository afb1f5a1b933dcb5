"""Uniform noise: a destroyed token becomes any token, and nothing marks it as destroyed.

    q(z_t | x) = α_t δ_x + (1 − α_t)/n Σ_v δ_v           n: the ids that a model may generate

(UDLM, arXiv:2412.10193; Duo, arXiv:2506.10892.) A token may change many times on its way back.
Duo's process is this one: its Gaussian origin only shapes the schedule.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from dlm.core.config import member
from dlm.core.contracts import Schedule
from dlm.noise.base import MixtureProcess
from dlm.noise.schedules.linear import Linear


@dataclass(frozen=True)
class UniformNoise(MixtureProcess):
    """Replaces tokens by others, all equally likely."""

    # How the probability of destruction grows with time.
    schedule: Schedule = member("noise.schedules", Linear())

    def noise_probs(self, t: Array) -> tuple[Array, Array]:
        """Returns (m, u): the probability of a mask, and of uniform noise."""
        # No masks: all that is destroyed is another token.
        p_noised = self.schedule.noised(t)
        return jnp.zeros_like(p_noised), p_noised

    def noise_rates(self, t: Array) -> tuple[Array, Array]:
        """Returns −α'(t), all of it towards uniform noise."""
        # −α' from the rate, which is relative to 1 − α.
        speed = self.schedule.rate(t) * self.schedule.noised(t)
        return jnp.zeros_like(speed), speed
