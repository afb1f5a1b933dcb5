"""Uniform noise: a destroyed token becomes any token, and nothing tells that it was destroyed (UDLM, arXiv:2412.10193; Duo, 2506.10892).

q(z_t | x) = α_t δ_x + (1 − α_t)/n Σ_v δ_v

A token may change again and again on its way back. Duo's process is this one: its Gaussian origin only shapes the schedule.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from dlm.noise import MixtureProcess, schedules


@dataclass(frozen=True)
class UniformNoise(MixtureProcess):
    schedule: Literal["linear", "cosine", "polynomial", "geometric"] = "linear"
    power: float = 2.0  # of the polynomial schedule

    def __post_init__(self):
        if not schedules.STEEPEST <= self.power <= schedules.FLATTEST:
            raise ValueError(
                f"power={self.power} must be from {schedules.STEEPEST} to {schedules.FLATTEST}, {schedules.WHY}"
            )

    def noise_probs(self, t):
        """(m, u): probability of a mask, and of uniform noise."""
        p_noised = schedules.mask_prob(self.schedule, self.power, t)
        return jnp.zeros_like(p_noised), p_noised

    def noise_rates(self, t):
        """−α'(t), all of it towards uniform noise."""
        speed = schedules.rate(self.schedule, self.power, t) * schedules.mask_prob(
            self.schedule, self.power, t
        )
        return jnp.zeros_like(speed), speed
