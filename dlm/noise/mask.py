"""Absorbing noise: a token survives to time t with probability α(t), else it is a mask (MDLM, arXiv:2406.07524).

q(z_t | x) = α_t δ_x + (1 − α_t) δ_m
q(z_s | z_t = m, x) = (1 − α_s)/(1 − α_t) δ_m + (α_s − α_t)/(1 − α_t) δ_x          s < t;  a revealed token stays
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from dlm.core import keys
from dlm.noise import MixtureProcess, schedules


@dataclass(frozen=True)
class MaskNoise(MixtureProcess):
    schedule: Literal["linear", "cosine", "polynomial", "geometric"] = "linear"
    power: float = 2.0  # of the polynomial schedule

    final: ClassVar = True

    def __post_init__(self):
        if not schedules.STEEPEST <= self.power <= schedules.FLATTEST:
            raise ValueError(
                f"power={self.power} must be from {schedules.STEEPEST} to {schedules.FLATTEST}, {schedules.WHY}"
            )

    def mask_prob(self, t):
        """1 − α(t), accurate near t = 0."""
        return schedules.mask_prob(self.schedule, self.power, t)

    def time_of(self, p_noised):
        """The time at which 1 − α(t) = gone."""
        return schedules.time_of(self.schedule, self.power, p_noised)

    def rate(self, t):
        """−α'(t)/(1 − α(t)): how fast a masked position would be revealed, and the weight of the continuous-time bound."""
        return schedules.rate(self.schedule, self.power, t)

    def reveal_prob(self, t, s):
        """(α_s − α_t)/(1 − α_t): probability that a position masked at t is revealed by s < t."""
        return 1 - self.mask_prob(s) / jnp.maximum(self.mask_prob(t), 1e-30)

    def noise_probs(self, t):
        """(m, u): probability of a mask, and of uniform noise."""
        return self.mask_prob(t), jnp.zeros_like(t)

    def noise_rates(self, t):
        """−α'(t), all of it towards masks."""
        return self.rate(t) * self.mask_prob(t), jnp.zeros_like(t)

    def corrupt(self, key_B, x_BL, t_BL, noisable_BL):
        """z ~ q(z_t | x), each position at its own time ([B, 1] will do); positions that are not noisable are kept."""
        hit_BL = keys.uniform_BL(key_B, x_BL.shape[1]) < self.mask_prob(t_BL)
        return jnp.where(hit_BL & noisable_BL, self.vocab.mask, x_BL)
