"""Absorbing noise with a schedule of its own for each token of the vocabulary.

    α_{t,v} = 1 − t^{w_v}          a token with a large w is masked late, and so revealed early

(GenMD4, arXiv:2406.04329, section 6.) The powers w are arrays, so this process is built by an
objective that learns them (`objectives.learned`) and never by a config.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import Canvas, Layout, Prediction, Transition
from dlm.core.vocab import Vocab
from dlm.noise.base import transition


class PerToken:
    """Replaces tokens by masks, each kind of token at its own speed."""

    # No schedule is shared by all tokens, and decided ones never change.
    schedule: ClassVar[None] = None
    final: ClassVar[bool] = True

    def __init__(self, power_V: Array, vocab: Vocab):
        self.power_V = power_V  # w
        self.vocab = vocab

    def undecided(self, z_BL: Array, layout: Layout | None = None) -> Array:
        """Marks the masks, bool_BL."""
        del layout
        return z_BL == self.vocab.mask

    def corrupt(
        self,
        key_B: Array,
        x_BL: Array,
        t_BL: Array,
        noisable_BL: Array,
    ) -> Array:
        """Draws z ~ q(z_t | x); positions that are not noisable keep their token."""
        # One number for each position; its token decides how likely a mask is.
        u_BL = keys.uniform_BL(key_B, x_BL.shape[1])
        hit_BL = u_BL < t_BL ** self.power_V[x_BL]
        return jnp.where(hit_BL & noisable_BL, self.vocab.mask, x_BL)

    def prior(self, key_B: Array, shape: tuple[int, int]) -> Array:
        """Returns z at t = 1: masks alone."""
        del key_B
        return jnp.full(shape, self.vocab.mask)

    def log_q(self, z_BL: Array, t_BL: Array, x_BL: Array) -> Array:
        """Returns log q(z_i | x_i) at each position, nats."""
        log_noised_BL = self.power_V[x_BL] * jnp.log(t_BL)
        # log(1 − p) from log p; at t = 1 nothing survives.
        survived_BL = -jnp.expm1(jnp.minimum(log_noised_BL, -1e-7))
        log_survived_BL = jnp.log(survived_BL)
        log_survived_BL = jnp.where(z_BL == x_BL, log_survived_BL, -jnp.inf)
        return jnp.where(self.undecided(z_BL), log_noised_BL, log_survived_BL)

    def open(self, key_B: Array, canvas: Canvas) -> Canvas:
        """Returns the canvas as it is: sampling starts from its masks."""
        del key_B
        return canvas

    def reverse(
        self,
        prediction: Prediction,
        z_BL: Array,
        t_B: Array,
        s_B: Array,
        sigma_BL: Array | float = 0.0,
    ) -> Transition:
        """Returns p(z_s | z_t): a mask becomes v with probability x̂_v (1 − (s/t)^{w_v}).

        Args: as in `MixtureProcess.reverse`; remasking needs one schedule for all tokens.
        """
        del sigma_BL
        # The share of each token's masks that are revealed between t and s.
        reveal_B1V = 1 - (s_B / t_B)[:, None, None] ** self.power_V
        probs_BLV = prediction.probs() * reveal_B1V
        mask_V = jax.nn.one_hot(self.vocab.mask, self.vocab.size)
        # What is not revealed stays a mask.
        left_BL1 = 1 - probs_BLV.sum(-1, keepdims=True)
        probs_BLV += left_BL1 * mask_V
        # Decided tokens are final.
        here_BLV = jax.nn.one_hot(z_BL, self.vocab.size)
        masked_BL1 = self.undecided(z_BL)[..., None]
        probs_BLV = jnp.where(masked_BL1, probs_BLV, here_BLV)
        return transition(probs_BLV, z_BL)

    def charge(
        self,
        prediction: Prediction,
        x_BL: Array,
        z_BL: Array,
        t_BL: Array,
        scale_BL: Array,
    ) -> Array:
        """Returns scale/t × [Σ_v w_v x̂_v − w_x (1 + log x̂_x)] at masks, nats_BL.

        Args: as in `MixtureProcess.charge`.
        """
        counted_BL = self.undecided(z_BL) & (scale_BL != 0)
        # Padding has no log-probability.
        x_BL = jnp.where(counted_BL, x_BL, self.vocab.eos)
        # The rate of the true token, and that of all tokens.
        own_BL = self.power_V[x_BL] * (1 + prediction.log_prob(x_BL))
        cost_BL = prediction.probs() @ self.power_V - own_BL
        return jnp.where(counted_BL, scale_BL / t_BL * cost_BL, 0.0)
