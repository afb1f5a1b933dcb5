"""The base of all processes that mix a token with masks and with uniform noise.

    q(z_t | x) = α_t δ_x + m_t δ_mask + u_t /n Σ_v δ_v       α + m + u = 1
    n: the number of ids that a model may generate

(GIDD, arXiv:2503.04482, eq. 3–6; MDLM is u = 0, UDLM is m = 0.) Each member gives m and u
(`noise_probs`) and the rates at which a token is destroyed, times α (`noise_rates`):
α (m' − α'/α m) and α (u' − α'/α u), which stay finite to both ends of time.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dlm.core import keys
from dlm.core.contracts import (
    Canvas,
    Dense,
    Layout,
    Prediction,
    Schedule,
    Transition,
)
from dlm.core.vocab import Vocab
from dlm.noise import divergence

_TINY = 1e-30  # a divisor that keeps 0/0 finite in float32


@dataclass(frozen=True, kw_only=True)
class MixtureProcess(ABC):
    """Everything that follows from α, m and u."""

    vocab: Vocab

    @property
    def schedule(self) -> Schedule | None:
        """The schedule that all tokens share; None where there is none."""
        return None

    @property
    def final(self) -> bool:
        """Whether a decided token never changes."""
        return False

    @abstractmethod
    def noise_probs(self, t: Array) -> tuple[Array, Array]:
        """Returns (m, u): the probability of a mask, and of uniform noise."""

    @abstractmethod
    def noise_rates(self, t: Array) -> tuple[Array, Array]:
        """Returns the rates towards masks and towards uniform noise, times α."""

    def alpha(self, t: Array) -> Array:
        """Returns the probability that a token survives to time t."""
        mask, uniform = self.noise_probs(t)
        destroyed = mask + uniform
        return jnp.maximum(1 - destroyed, 0)

    @property
    def ids(self) -> np.ndarray:
        """The ids that uniform noise draws from."""
        # A model never generates bos, padding and masks.
        never = self.vocab.never
        ids = [i for i in range(self.vocab.size) if i not in never]
        return np.array(ids, np.int32)

    # ------------------------------------------------------------------------------ from x to z

    def undecided(self, z_BL: Array, layout: Layout | None = None) -> Array:
        """Marks the positions still to be filled, bool_BL: masks, or all if tokens may change."""
        # The layout matters to processes that treat positions differently.
        del layout
        if self.final:
            return z_BL == self.vocab.mask
        return jnp.ones(z_BL.shape, bool)

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
        B, L = x_BL.shape
        u_BL2 = keys.uniform_BL(key_B, 2 * L).reshape(B, L, 2)
        # One number decides between mask, uniform noise and survival, the other draws a token.
        whether_BL = u_BL2[..., 0]
        which_BL = u_BL2[..., 1]
        index_BL = (which_BL * len(self.ids)).astype(int)
        random_BL = jnp.asarray(self.ids)[index_BL]
        # The smallest numbers give masks, the next ones uniform noise.
        mask, uniform = self.noise_probs(t_BL)
        z_BL = jnp.where(whether_BL < mask + uniform, random_BL, x_BL)
        z_BL = jnp.where(whether_BL < mask, self.vocab.mask, z_BL)
        return jnp.where(noisable_BL, z_BL, x_BL)

    def prior(self, key_B: Array, shape: tuple[int, int]) -> Array:
        """Draws z ~ q(z_1), ids_BL: nothing is left of x."""
        # Any text will do: at time 1 nothing depends on it.
        x_BL = jnp.zeros(shape, jnp.int32)
        t_11 = jnp.ones((1, 1))
        noisable_BL = jnp.ones(shape, bool)
        return self.corrupt(key_B, x_BL, t_11, noisable_BL)

    def log_q(
        self,
        z_BL: Array,
        t_BL: Array,
        x_BL: Array,
    ) -> Array:
        """Returns log q(z_i | x_i) at each position, nats."""
        mask, uniform = self.noise_probs(t_BL)
        # A token is there because it survived, or because noise happened to choose it.
        each = uniform / len(self.ids)
        noise_BL = jnp.where(jnp.isin(z_BL, self.ids), each, 0.0)
        survived_BL = jnp.where(z_BL == x_BL, self.alpha(t_BL), 0.0)
        q_BL = noise_BL + survived_BL
        q_BL = jnp.where(z_BL == self.vocab.mask, mask, q_BL)
        return jnp.log(q_BL)

    # ------------------------------------------------------------------------------ from z to x

    def open(self, key_B: Array, canvas: Canvas) -> Canvas:
        """Returns the canvas before the first step of sampling.

        A final process starts from the masks that are there. Otherwise what is not frozen is
        drawn from the prior.
        """
        if self.final:
            return canvas
        z_BL = canvas.z_BL
        B, L = z_BL.shape
        noise_BL = self.prior(key_B, (B, L))
        z_BL = jnp.where(canvas.frozen_BL, z_BL, noise_BL)
        return replace(canvas, z_BL=z_BL)

    def reverse(
        self,
        prediction: Prediction,
        z_BL: Array,
        t_B: Array,
        s_B: Array,
        sigma_BL: Array | float = 0.0,
    ) -> Transition:
        """Returns p(z_s | z_t) of each position, with the prediction x̂ instead of x.

        p(z_s | z_t) = q(z_t | z_s) q(z_s | x̂) / q(z_t | x̂)

        Args:
          prediction: x̂, the network's law of the clean tokens.
          z_BL: noised tokens.
          t_B: their times.
          s_B: earlier times.
          sigma_BL: without effect, since remasking needs masks.
        """
        del sigma_BL
        t_B1 = t_B[:, None]
        s_B1 = s_B[:, None]
        survives_B1 = self.alpha(t_B1) / jnp.maximum(self.alpha(s_B1), _TINY)
        # How much noise there is at both times.
        mask_t, uniform_t = self.noise_probs(t_B1)
        mask_s, uniform_s = self.noise_probs(s_B1)
        # The probability that noise between s and t produced z_t, whatever z_s was.
        mask_step = mask_t - survives_B1 * mask_s
        uniform_step = (uniform_t - survives_B1 * uniform_s) / len(self.ids)
        is_mask_BL = z_BL == self.vocab.mask
        produced_BL = jnp.where(is_mask_BL, mask_step, uniform_step)
        produced_BL1 = jnp.maximum(produced_BL, 0)[..., None]
        # q(z_t | z_s) for every z_s, and with it the joint law of both.
        here_BLV = jax.nn.one_hot(z_BL, self.vocab.size)
        survived_BLV = survives_B1[..., None] * here_BLV
        forward_BLV = produced_BL1 + survived_BLV
        earlier_BLV = self.mixed(prediction.probs(), s_B1)
        joint_BLV = forward_BLV * earlier_BLV
        # Normalised over the tokens at s.
        total_BL1 = joint_BLV.sum(-1, keepdims=True)
        probs_BLV = joint_BLV / jnp.maximum(total_BL1, _TINY)
        # A token that cannot occur at t stays.
        probs_BLV = jnp.where(total_BL1 > 0, probs_BLV, here_BLV)
        return transition(probs_BLV, z_BL)

    def mixed(self, probs_BLV: Array, t_BL: Array) -> Array:
        """Returns Σ_x probs(x) q(z_t | x) for every z, probs_BLV."""
        mask, uniform = self.noise_probs(t_BL)
        mask_V = jax.nn.one_hot(self.vocab.mask, self.vocab.size)
        uniform_V = jnp.zeros(self.vocab.size)
        uniform_V = uniform_V.at[self.ids].set(1 / len(self.ids))
        # The three terms of q, with the law of x instead of x.
        survived_BLV = self.alpha(t_BL)[..., None] * probs_BLV
        masked_BLV = mask[..., None] * mask_V
        random_BLV = uniform[..., None] * uniform_V
        return survived_BLV + masked_BLV + random_BLV

    # ------------------------------------------------------------------------ cost of the bound

    def charge(
        self,
        prediction: Prediction,
        x_BL: Array,
        z_BL: Array,
        t_BL: Array,
        scale_BL: Array,
    ) -> Array:
        """Returns scale × the integrand of the bound on −log p(x), nats_BL; 0 where scale is 0.

        The integrand is w (KL + r − log r − 1) of `noise.divergence`, with the weight
        w = (β' − α'/α β)_z / q(z | x).

        Args:
          prediction: the network's law of the clean tokens.
          x_BL: clean tokens.
          z_BL: noised tokens.
          t_BL: their times.
          scale_BL: weights of the positions.
        """
        # Padding may cost infinitely much, and counts nothing.
        counted_BL = scale_BL != 0
        cost_BL = self.divergence(prediction, x_BL, z_BL, t_BL, counted_BL)
        weight_BL = self._bound_weight(x_BL, z_BL, t_BL)
        return jnp.where(counted_BL, weight_BL * scale_BL * cost_BL, 0.0)

    def divergence(
        self,
        prediction: Prediction,
        x_BL: Array,
        z_BL: Array,
        t_BL: Array,
        counted_BL: Array,
    ) -> Array:
        """Returns (KL + r − log r − 1)/α where `counted_BL`, and something finite elsewhere.

        Args:
          prediction: the network's law of the clean tokens.
          x_BL: clean tokens.
          z_BL: noised tokens.
          t_BL: their times.
          counted_BL: positions that count.
        """
        # Padding has no log-probability.
        eos = self.vocab.eos
        x_BL = jnp.where(counted_BL, x_BL, eos)
        z_BL = jnp.where(counted_BL, z_BL, eos)
        # u/n, the probability that noise gives one particular token.
        uniform_BL = self.noise_probs(t_BL)[1]
        return divergence.scaled(
            prediction,
            x_BL,
            z_BL,
            alpha_BL=jnp.maximum(self.alpha(t_BL), divergence.TINY),
            each_BL=uniform_BL / len(self.ids),
            masked_BL=z_BL == self.vocab.mask,
        )

    def _bound_weight(
        self,
        x_BL: Array,
        z_BL: Array,
        t_BL: Array,
    ) -> Array:
        """Returns α w: the rate towards z over the probability of z."""
        masked_BL = z_BL == self.vocab.mask
        # The probability of z.
        mask_BL, uniform_BL = self.noise_probs(t_BL)
        each_BL = uniform_BL / len(self.ids)
        alpha_BL = jnp.maximum(self.alpha(t_BL), divergence.TINY)
        survived_BL = jnp.where(z_BL == x_BL, alpha_BL, 0.0)
        q_BL = jnp.where(masked_BL, mask_BL, each_BL + survived_BL)
        # The rate towards z.
        mask_rate, uniform_rate = self.noise_rates(t_BL)
        each_rate = uniform_rate / len(self.ids)
        rate_BL = jnp.where(masked_BL, mask_rate, each_rate)
        return rate_BL / jnp.maximum(q_BL, divergence.TINY)


def transition(probs_BLV: Array, z_BL: Array) -> Transition:
    """Returns the transition from z with these probabilities of the next token.

    Whether a token changes and to which are two draws: one draw over all outcomes would lose
    rare events to float32 rounding.
    """
    V = probs_BLV.shape[-1]
    here_BLV = jax.nn.one_hot(z_BL, V, dtype=bool)
    others_BLV = jnp.where(here_BLV, 0.0, probs_BLV)
    same_BLV = jnp.where(here_BLV, probs_BLV, 0.0)
    must_BL = same_BLV.sum(-1) == 0
    # A float32 sum of 1 may be less than 1, where the token must change.
    change_BL = jnp.where(must_BL, jnp.inf, others_BLV.sum(-1))
    return Transition(change_BL, Dense(jnp.log(others_BLV)))
