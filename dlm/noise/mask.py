"""Absorbing noise: a token survives to time t with probability α(t), else it is a mask (MDLM, arXiv:2406.07524).

q(z_t | x) = α_t δ_x + (1 − α_t) δ_m
q(z_s | z_t = m, x) = (1 − α_s)/(1 − α_t) δ_m + (α_s − α_t)/(1 − α_t) δ_x          s < t;  a revealed token stays
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.noise import schedules
from dlm.run import keys
from dlm.run.spec import Vocab


@dataclass(frozen=True)
class MaskNoise:
    schedule: Literal["linear", "cosine", "polynomial", "geometric"] = "linear"
    power: float = 2.0  # of the polynomial schedule
    vocab: Vocab | None = None

    absorbing: ClassVar = True  # what is destroyed is a mask, and never anything else

    def __post_init__(self):
        if self.power <= 0:
            raise ValueError(f"power={self.power} must be positive")

    def mask_prob(self, t):
        """1 − α(t), accurate near t = 0."""
        return schedules.mask_prob(self.schedule, self.power, t)

    def alpha(self, t):
        """Probability that a token survives to time t."""
        return 1 - self.mask_prob(t)

    def rate(self, t):
        """−α'(t)/(1 − α(t)): how fast a masked position would be revealed, and the weight of the continuous-time bound."""
        return schedules.rate(self.schedule, self.power, t)

    def reveal_prob(self, t, s):
        """(α_s − α_t)/(1 − α_t): probability that a position masked at t is revealed by s < t."""
        return 1 - self.mask_prob(s) / self.mask_prob(t)

    def corrupt(self, key_B, x_BL, t_BL, noisable_BL):
        """z ~ q(z_t | x), each position at its own time ([B, 1] will do); positions that are not noisable are kept."""
        hit_BL = keys.uniform_BL(key_B, x_BL.shape[1]) < self.mask_prob(t_BL)
        return jnp.where(hit_BL & noisable_BL, self.vocab.mask, x_BL)

    def log_q(self, z_BL, t_BL, x_BL):
        """log q(z_i | x_i) at each position, nats."""
        kept_BL, gone_BL = jnp.log(self.alpha(t_BL)), jnp.log(self.mask_prob(t_BL))
        return jnp.where(z_BL == self.vocab.mask, gone_BL, jnp.where(z_BL == x_BL, kept_BL, -jnp.inf))

    def reverse(self, prediction, z_BL, t_B, s_B):
        """p(z_s | z_t) of each position, probs_BLV, with the prediction in the place of x."""
        reveal_B11 = self.reveal_prob(t_B, s_B)[:, None, None]
        mask_V = jax.nn.one_hot(self.vocab.mask, self.vocab.size)
        moved_BLV = reveal_B11 * prediction.probs() + (1 - reveal_B11) * mask_V
        return jnp.where((z_BL == self.vocab.mask)[..., None], moved_BLV, jax.nn.one_hot(z_BL, self.vocab.size))
