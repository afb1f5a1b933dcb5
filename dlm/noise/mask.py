"""Absorbing noise: a token survives to time t with probability α(t), else it is a mask.

    q(z_t | x) = α_t δ_x + (1 − α_t) δ_mask
    q(z_s | z_t = mask, x) = (1 − α_s)/(1 − α_t) δ_mask + (α_s − α_t)/(1 − α_t) δ_x      s < t

A revealed token never changes again (MDLM, arXiv:2406.07524).
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.config import member
from dlm.noise.base import MixtureProcess
from dlm.noise.schedules.linear import Linear


@dataclass(frozen=True)
class MaskNoise(MixtureProcess):
    """Replaces tokens by masks; decided tokens are final."""

    schedule: Any = member("noise.schedules", Linear())

    final: ClassVar = True

    def mask_prob(self, t: jax.Array) -> jax.Array:
        """Returns 1 − α(t), accurate near t = 0."""
        return self.schedule.noised(t)

    def time_of(self, p_noised: jax.Array) -> jax.Array:
        """Returns the time t at which 1 − α(t) = p_noised."""
        return self.schedule.time_of(p_noised)

    def rate(self, t: jax.Array) -> jax.Array:
        """Returns −α'(t)/(1 − α(t)): how fast a masked position would be revealed.

        It is also the weight of the continuous-time bound.
        """
        return self.schedule.rate(t)

    def reveal_prob(self, t: jax.Array, s: jax.Array) -> jax.Array:
        """Returns (α_s − α_t)/(1 − α_t): P(revealed by s | masked at t), s < t."""
        return 1 - self.mask_prob(s) / jnp.maximum(self.mask_prob(t), 1e-30)

    def noise_probs(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (m, u): the probability of a mask, and of uniform noise."""
        return self.mask_prob(t), jnp.zeros_like(t)

    def noise_rates(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns −α'(t), all of it towards masks."""
        return self.rate(t) * self.mask_prob(t), jnp.zeros_like(t)

    def corrupt(self, key_B, x_BL, t_BL, noisable_BL) -> jax.Array:
        """Draws z ~ q(z_t | x), each position at its own time; t may be [B, 1].

        Positions that are not noisable keep their token.
        """
        hit_BL = keys.uniform_BL(key_B, x_BL.shape[1]) < self.mask_prob(t_BL)
        return jnp.where(hit_BL & noisable_BL, self.vocab.mask, x_BL)
