"""The base of all processes that mix a token with masks and with uniform noise.

    q(z_t | x) = α_t δ_x + m_t δ_mask + u_t /n Σ_v δ_v       α + m + u = 1
    n: the number of ids that a model may generate

(GIDD, arXiv:2503.04482, eq. 3–6; MDLM is u = 0, UDLM is m = 0.) Each member gives m and u
(`noise_probs`) and the rates at which a token is destroyed, times α (`noise_rates`):
α (m' − α'/α m) and α (u' − α'/α u), which stay finite to both ends of time.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.vocab import Vocab

_TINY = 1e-30  # a divisor that keeps 0/0 finite in float32


@dataclass(frozen=True, kw_only=True)
class MixtureProcess:
    """Everything that follows from α, m and u."""

    vocab: Vocab | None = None

    # The schedule that all tokens share; None where there is none.
    schedule: ClassVar[Any] = None
    # Whether a decided token never changes: what is destroyed is a mask, and nothing else.
    final: ClassVar[bool] = False

    def noise_probs(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (m, u): the probability of a mask, and of uniform noise."""
        raise NotImplementedError

    def noise_rates(self, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the rates towards masks and towards uniform noise, times α."""
        raise NotImplementedError

    def alpha(self, t: jax.Array) -> jax.Array:
        """Returns the probability that a token survives to time t."""
        mask, uniform = self.noise_probs(t)
        return jnp.maximum(1 - (mask + uniform), 0)

    @property
    def ids(self) -> np.ndarray:
        """The ids that uniform noise draws from."""
        never = self.vocab.never
        return np.array([i for i in range(self.vocab.size) if i not in never], np.int32)

    def undecided(self, z_BL, layout=None) -> jax.Array:
        """Marks the positions still to be filled, bool_BL: the masks, or all if tokens may change."""
        del layout
        if self.final:
            return z_BL == self.vocab.mask
        return jnp.ones(z_BL.shape, bool)

    def corrupt(self, key_B, x_BL, t_BL, noisable_BL) -> jax.Array:
        """Draws z ~ q(z_t | x), each position at its own time; t may be [B, 1].

        Positions that are not noisable keep their token.
        """
        B, L = x_BL.shape
        u_BL2 = keys.uniform_BL(key_B, 2 * L).reshape(B, L, 2)
        whether_BL, which_BL = u_BL2[..., 0], u_BL2[..., 1]
        mask, uniform = self.noise_probs(t_BL)
        random_BL = jnp.asarray(self.ids)[(which_BL * len(self.ids)).astype(int)]
        z_BL = jnp.where(whether_BL < mask + uniform, random_BL, x_BL)
        z_BL = jnp.where(whether_BL < mask, self.vocab.mask, z_BL)
        return jnp.where(noisable_BL, z_BL, x_BL)

    def prior(self, key_B, shape) -> jax.Array:
        """Draws z ~ q(z_1), ids_BL: nothing is left of x."""
        x_BL = jnp.zeros(shape, jnp.int32)
        return self.corrupt(key_B, x_BL, jnp.ones((1, 1)), jnp.ones(shape, bool))

    def log_q(self, z_BL, t_BL, x_BL) -> jax.Array:
        """Returns log q(z_i | x_i) at each position, nats."""
        mask, uniform = self.noise_probs(t_BL)
        noise_BL = jnp.where(jnp.isin(z_BL, self.ids), uniform / len(self.ids), 0.0)
        survived_BL = jnp.where(z_BL == x_BL, self.alpha(t_BL), 0.0)
        return jnp.log(jnp.where(z_BL == self.vocab.mask, mask, noise_BL + survived_BL))

    def mixed(self, probs_BLV, t_BL) -> jax.Array:
        """Returns Σ_x probs(x) q(z_t | x) for every z, probs_BLV."""
        mask, uniform = (p[..., None] for p in self.noise_probs(t_BL))
        survived_BLV = self.alpha(t_BL)[..., None] * probs_BLV
        return survived_BLV + mask * self._mask_V + uniform * self._uniform_V

    def reverse(self, prediction, z_BL, t_B, s_B) -> jax.Array:
        """Returns p(z_s | z_t) of each position, probs_BLV, with the prediction x̂ instead of x.

        p(z_s | z_t) = q(z_t | z_s) q(z_s | x̂) / q(z_t | x̂)
        """
        t_B1, s_B1 = t_B[:, None], s_B[:, None]
        survives_B1 = self.alpha(t_B1) / jnp.maximum(self.alpha(s_B1), _TINY)
        mask_t, uniform_t = self.noise_probs(t_B1)
        mask_s, uniform_s = self.noise_probs(s_B1)
        # The probability that noise between s and t produced z_t, whatever z_s was.
        mask_step = mask_t - survives_B1 * mask_s
        uniform_step = (uniform_t - survives_B1 * uniform_s) / len(self.ids)
        produced_BL = jnp.where(z_BL == self.vocab.mask, mask_step, uniform_step)
        here_BLV = jax.nn.one_hot(z_BL, self.vocab.size)
        forward_BLV = jnp.maximum(produced_BL, 0)[..., None] + survives_B1[..., None] * here_BLV
        joint_BLV = forward_BLV * self.mixed(prediction.probs(), s_B1)
        total_BL1 = joint_BLV.sum(-1, keepdims=True)
        # A token that cannot occur at t stays.
        return jnp.where(total_BL1 > 0, joint_BLV / jnp.maximum(total_BL1, _TINY), here_BLV)

    @property
    def _mask_V(self) -> jax.Array:
        return jax.nn.one_hot(self.vocab.mask, self.vocab.size)

    @property
    def _uniform_V(self) -> jax.Array:
        return jnp.zeros(self.vocab.size).at[self.ids].set(1 / len(self.ids))
