"""Masks and uniform noise: a model also learns to correct tokens that are there already.

    α = (1 − τ)/C,  m = τ/C,  u = c/C,  C = 1 + c,  c = B √(τ (1 − τ)),  B = 2 p_u/(1 − p_u)

(GIDD, arXiv:2503.04482, eq. 8–11, γ = 1.) Half-way a share p_u of the tokens is uniform noise;
at the ends all is clean, or all masks. The paper draws τ uniformly, but u grows as √τ, so that
the bound's estimate would have no variance. A bound does not depend on the clock. Here time t is
the probability of destruction, α = 1 − t, with

    (1 − t)(1 + c(τ)) = 1 − τ,  hence  (1 + k) τ² − (2t + k) τ + t² = 0,  k = B² (1 − t)²
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from dlm.noise import divergence
from dlm.noise.base import MixtureProcess


@dataclass(frozen=True)
class HybridNoise(MixtureProcess):
    """Mixes masks with uniform noise, most of it half-way."""

    # p_u, the largest share of uniform noise.
    uniform: float = 0.1

    def __post_init__(self):
        if not 0 <= self.uniform < 1:
            raise ValueError(f"uniform={self.uniform} must be in [0, 1)")

    @property
    def ratio(self) -> float:
        """The constant B of the paper."""
        return 2 * self.uniform / (1 - self.uniform)

    def alpha(self, t: Array) -> Array:
        """Returns the probability that a token survives to time t."""
        return 1 - t

    def noise_probs(self, t: Array) -> tuple[Array, Array]:
        """Returns (m, u): the probability of a mask, and of uniform noise."""
        # C = 1 + c normalises.
        tau, c = self._paper_clock(t)
        return tau / (1 + c), c / (1 + c)

    def noise_rates(self, t: Array) -> tuple[Array, Array]:
        """Returns −α' = 1, shared as 2τ : c between masks and uniform noise."""
        tau, c = self._paper_clock(t)
        # At t = 0 both rates vanish.
        both = jnp.maximum(2 * tau + c, 1e-30)
        masks = 2 * tau / both
        return masks, 1 - masks

    def dynamic_weight(
        self,
        x_BL: Array,
        z_BL: Array,
        t_BL: Array,
    ) -> Array:
        """Returns α × the weights of section 4.2: 2 on masks, 1 on noise, less on kept tokens.

        A kept token weighs B/n √((1 − α)/α), at most 1.
        """
        alpha_BL = jnp.maximum(self.alpha(t_BL), divergence.TINY)
        # A kept token is rare where little survives.
        odds_BL = (1 - alpha_BL) / alpha_BL
        rare_BL = self.ratio / len(self.ids) * jnp.sqrt(odds_BL)
        rare_BL = jnp.minimum(rare_BL, 1)
        weight_BL = jnp.where(z_BL == x_BL, rare_BL, 1.0)
        weight_BL = jnp.where(z_BL == self.vocab.mask, 2.0, weight_BL)
        return alpha_BL * weight_BL

    def _paper_clock(self, t: Array) -> tuple[Array, Array]:
        """Returns (τ, c): the paper's time at our time t, and its c."""
        k = (self.ratio * (1 - t)) ** 2
        # The quadratic's small root, in the form without cancellation.
        square = k * (k + 4 * t * (1 - t))
        divisor = 2 * t + k + jnp.sqrt(square)
        tau = 2 * t**2 / jnp.maximum(divisor, 1e-30)
        # Rounding may bring τ above 1.
        left = jnp.maximum(1 - tau, 0)
        return tau, self.ratio * jnp.sqrt(tau * left)
