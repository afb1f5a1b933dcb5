"""noise — how tokens are destroyed; here is what all processes that mix a token with masks and with uniform noise have in common.

    q(z_t | x) = α_t δ_x + m_t δ_mask + u_t /n Σ_v δ_v          α + m + u = 1;  n: the ids that a model may generate

(GIDD, arXiv:2503.04482, eq. 3–6; MDLM is u = 0, UDLM is m = 0.) Each member gives α, m and u (`masses`) and the rates at which a token
is destroyed, times α: `speeds`, α (m' − α'/α m) and α (u' − α'/α u), which stay finite to both ends of time.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.vocab import Vocab


@dataclass(frozen=True, kw_only=True)
class MixtureProcess:
    vocab: Vocab | None = None

    # Whether a decided token never changes: what is destroyed is a mask, and nothing else.
    final: ClassVar[bool] = False

    def alpha(self, t):
        """Probability that a token survives to time t."""
        return jnp.maximum(1 - sum(self.noise_probs(t)), 0)

    @property
    def ids(self) -> np.ndarray:
        """What uniform noise draws from."""
        return np.array([i for i in range(self.vocab.size) if i not in self.vocab.never], np.int32)

    def undecided(self, z_BL, layout=None):
        """Marks the positions still to be filled, bool_BL: the masks, or all if tokens may change."""
        del layout
        if self.final:
            return z_BL == self.vocab.mask
        return jnp.ones(z_BL.shape, bool)

    def corrupt(self, key_B, x_BL, t_BL, noisable_BL):
        """z ~ q(z_t | x), each position at its own time ([B, 1] will do); positions that are not noisable are kept."""
        whether_BL, which_BL = (
            keys.uniform_BL(key_B, 2 * x_BL.shape[1])
            .reshape(len(x_BL), -1, 2)
            .swapaxes(0, 2)
            .swapaxes(1, 2)
        )
        mask, uniform = self.noise_probs(t_BL)
        other_BL = jnp.asarray(self.ids)[(which_BL * len(self.ids)).astype(int)]
        z_BL = jnp.where(
            whether_BL < mask,
            self.vocab.mask,
            jnp.where(whether_BL < mask + uniform, other_BL, x_BL),
        )
        return jnp.where(noisable_BL, z_BL, x_BL)

    def prior(self, key_B, shape):
        """z ~ q(z_1), ids_BL: nothing is left of x."""
        return self.corrupt(
            key_B, jnp.zeros(shape, jnp.int32), jnp.ones((1, 1)), jnp.ones(shape, bool)
        )

    def log_q(self, z_BL, t_BL, x_BL):
        """log q(z_i | x_i) at each position, nats."""
        mask, uniform = self.noise_probs(t_BL)
        any_BL = jnp.where(jnp.isin(z_BL, self.ids), uniform / len(self.ids), 0.0)
        return jnp.log(
            jnp.where(
                z_BL == self.vocab.mask,
                mask,
                any_BL + jnp.where(z_BL == x_BL, self.alpha(t_BL), 0.0),
            )
        )

    def mixed(self, probs_BLV, t_BL):
        """Σ_x probs(x) q(z_t | x), probs_BLV."""
        mask, uniform = (mass[..., None] for mass in self.noise_probs(t_BL))
        return (
            self.alpha(t_BL)[..., None] * probs_BLV
            + mask * self._mask_V
            + uniform * self._uniform_V
        )

    def reverse(self, prediction, z_BL, t_B, s_B):
        """p(z_s | z_t) = q(z_t | z_s) q(z_s | x̂) / q(z_t | x̂) of each position, probs_BLV, with the prediction in the place of x."""
        t_B1, s_B1 = t_B[:, None], s_B[:, None]
        kept_B1 = self.alpha(t_B1) / jnp.maximum(self.alpha(s_B1), 1e-30)
        step = [
            after - kept_B1 * before
            for after, before in zip(self.noise_probs(t_B1), self.noise_probs(s_B1), strict=True)
        ]
        arrived_BL1 = jnp.where(z_BL == self.vocab.mask, step[0], step[1] / len(self.ids))[
            ..., None
        ]
        here_BLV = jax.nn.one_hot(z_BL, self.vocab.size)
        joint_BLV = (jnp.maximum(arrived_BL1, 0) + kept_B1[..., None] * here_BLV) * self.mixed(
            prediction.probs(), s_B1
        )
        total_BL1 = joint_BLV.sum(-1, keepdims=True)
        return jnp.where(
            total_BL1 > 0, joint_BLV / jnp.maximum(total_BL1, 1e-30), here_BLV
        )  # what cannot be at t stays

    @property
    def _mask_V(self):
        return jax.nn.one_hot(self.vocab.mask, self.vocab.size)

    @property
    def _uniform_V(self):
        return jnp.zeros(self.vocab.size).at[self.ids].set(1 / len(self.ids))
