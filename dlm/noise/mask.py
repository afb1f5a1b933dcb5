"""Absorbing noise: a token survives to time t with probability α(t), else it is a mask.

    q(z_t | x) = α_t δ_x + (1 − α_t) δ_mask
    q(z_s | z_t = mask, x) = (1 − α_s)/(1 − α_t) δ_mask + (α_s − α_t)/(1 − α_t) δ_x      s < t

A revealed token never changes again (MDLM, arXiv:2406.07524).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.config import member
from dlm.core.contracts import Prediction, Schedule, Transition
from dlm.noise.base import MixtureProcess
from dlm.noise.schedules.linear import Linear


@dataclass(frozen=True)
class MaskNoise(MixtureProcess):
    """Replaces tokens by masks; decided tokens are final."""

    # How the probability of a mask grows with time.
    schedule: Schedule = member("noise.schedules", Linear())

    final: ClassVar[bool] = True

    def noise_probs(self, t: Array) -> tuple[Array, Array]:
        """Returns (m, u): the probability of a mask, and of uniform noise."""
        return self.schedule.noised(t), jnp.zeros_like(t)

    def noise_rates(self, t: Array) -> tuple[Array, Array]:
        """Returns −α'(t), all of it towards masks."""
        return self.schedule.rate(t) * self.schedule.noised(t), jnp.zeros_like(t)

    def corrupt(
        self,
        key_B: Array,
        x_BL: Array,
        t_BL: Array,
        noisable_BL: Array,
    ) -> Array:
        """Draws z ~ q(z_t | x), each position at its own time; t may be [B, 1].

        Positions that are not noisable keep their token.
        """
        # One number for each position, whatever its time.
        u_BL = keys.uniform_BL(key_B, x_BL.shape[1])
        hit_BL = u_BL < self.schedule.noised(t_BL)
        return jnp.where(hit_BL & noisable_BL, self.vocab.mask, x_BL)

    def mask_out(self, x_BL: Array, hit_BL: Array) -> Array:
        """Returns the tokens with masks at these positions."""
        return jnp.where(hit_BL, self.vocab.mask, x_BL)

    def reveal_prob(self, t: Array, s: Array) -> Array:
        """Returns (α_s − α_t)/(1 − α_t): P(revealed by s | masked at t), s < t."""
        # At t = 0 nothing is masked.
        noised_t = jnp.maximum(self.schedule.noised(t), 1e-30)
        return 1 - self.schedule.noised(s) / noised_t

    def reverse(
        self,
        prediction: Prediction,
        z_BL: Array,
        t_B: Array,
        s_B: Array,
        sigma_BL: Array | float = 0.0,
    ) -> Transition:
        """Returns p(z_s | z_t): a mask is revealed, each on its own, and drawn from x̂.

        Where decided tokens become masks again with probability σ, masks are revealed with
        (α_s − (1 − σ) α_t)/(1 − α_t) (ReMDM, arXiv:2503.00307, eq. 4).

        Args: as in `MixtureProcess.reverse`; σ is `sigma_BL`.
        """
        t_B1 = t_B[:, None]
        s_B1 = s_B[:, None]
        # What comes back as masks must be revealed in addition.
        p_noised_B1 = jnp.maximum(self.schedule.noised(t_B1), 1e-30)
        remasked_BL = sigma_BL * (1 - p_noised_B1) / p_noised_B1
        # Each mask on its own, at the same rate.
        change_BL = self.reveal_prob(t_B1, s_B1) + remasked_BL
        # Decided tokens are final.
        change_BL = jnp.where(self.undecided(z_BL), change_BL, 0.0)
        return Transition(change_BL, prediction)

    def charge(
        self,
        prediction: Prediction,
        x_BL: Array,
        z_BL: Array,
        t_BL: Array,
        scale_BL: Array,
    ) -> Array:
        """Returns scale × rate(t) × −log p(x_i | z) at masks, nats_BL; 0 where scale is 0.

        Args: as in `MixtureProcess.charge`.
        """
        # The weight of the bound in continuous time.
        rate_BL = self.schedule.rate(t_BL)
        return self.cross_entropy(prediction, x_BL, z_BL, rate_BL, scale_BL)

    def cross_entropy(
        self,
        prediction: Prediction,
        x_BL: Array,
        z_BL: Array,
        weight_BL: Array | float,
        scale_BL: Array,
    ) -> Array:
        """Returns scale × weight × −log p(x_i | z) at masks, nats_BL; 0 where scale is 0.

        The sum over masks is never divided by their number.

        Args:
          prediction: the network's law of the clean tokens.
          x_BL: clean tokens.
          z_BL: noised tokens.
          weight_BL: weight of a mask at its time.
          scale_BL: weights of the positions.
        """
        # The log-probability of padding may be −inf.
        counted_BL = self.undecided(z_BL) & (scale_BL != 0)
        # The law of each masked token given the canvas.
        log_prob_BL = prediction.log_prob(x_BL)
        return jnp.where(counted_BL, -weight_BL * scale_BL * log_prob_BL, 0.0)
