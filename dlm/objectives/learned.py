"""Each token of the vocabulary has a schedule of its own, and it is learned (GenMD4, arXiv:2406.04329, section 6).

    α_{t,v} = 1 − t^{w_v}          a token with a large w is masked late, and so revealed early
    −log p(x) ≤ E_t E_z Σ_{i masked} (1/t) [ Σ_v w_v x̂_v − w_x (1 + log x̂_x) ]          x̂: the network's law of x_i given z and t

With all w = 1 it is masked diffusion's bound. The rate of revealing v is (w_v/t) x̂_v, so the optimum of x̂ is p(x_i | z, t), to which the
mask at i itself contributes t^{w_x}: give the network the time (`nn.time="adaln"`). Since w shapes the law of z too, its gradient needs
the score function; two draws of z at the same t are each other's baseline (REINFORCE leave-one-out):

    ∇ = E [ ½ ∇(L₁ + L₂) + ½ (L₁ − L₂) ∇(log q(z₁ | x) − log q(z₂ | x)) ]
"""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Batch, UnbiasedLoss, Visibility
from dlm.core.vocab import Vocab
from dlm.nn.visibility.full import Full
from dlm.noise.schedules import polynomial
from dlm.noise.time_sampling import Kind
from dlm.objectives.base import Diffusion


@dataclass(frozen=True, eq=False)
class Learned(Diffusion):
    times: Kind = "stratified"

    __eq__, __hash__ = (
        object.__eq__,
        object.__hash__,
    )  # two that hold other schedules are not the same, whatever their fields

    visibility: ClassVar[Visibility] = Full()
    token_passes: ClassVar = 2
    own: ClassVar = None  # {'power_V': …}, from which w follows; None is w = 1

    def __post_init__(self):
        if self.times == "importance":
            raise ValueError(
                "times='importance' remembers the cost of one view, and learned schedules compare two: use times='stratified'"
            )

    def init(self, key: jax.Array) -> dict:
        """What is trained beside the network."""
        return {"power_V": jnp.zeros(self.vocab.size)}

    def holding(self, own: dict) -> "Learned":
        """The same with these schedules."""
        bound_copy = copy.copy(self)
        object.__setattr__(bound_copy, "own", own)
        return bound_copy

    @property
    def process(self) -> "_PerToken":
        return _PerToken(
            self.vocab,
            jnp.ones(self.vocab.size)
            if self.own is None
            else jnp.exp(self._range(self.own["power_V"])),
        )

    def _range(self, log_V):
        """Between the powers that float32 times allow, so that no bound can be bought next to t = 0; smooth, so that w can come back."""
        low, high = math.log(polynomial.SMALLEST_POWER), math.log(polynomial.LARGEST_POWER)
        start = math.log(-low / high)  # w = 1 where log_V is 0
        return low + (high - low) * jax.nn.sigmoid(log_V + start)

    def bound_nats(self, net, batch: Batch, z_BL, t_BL):
        """What the masked positions cost, nats."""
        prediction = net(self.canvas(batch, z_BL, t_BL)).prediction
        counted_BL = (z_BL == self.vocab.mask) & (batch.weights_BL > 0)
        w_V, x_BL = (
            self.process.power_V,
            jnp.where(counted_BL, batch.tokens_BL, self.vocab.eos),
        )  # padding has no log-probability
        own_BL = w_V[x_BL] * (1 + prediction.log_prob(x_BL))
        return jnp.where(
            counted_BL, batch.weights_BL / t_BL * (prediction.probs() @ w_V - own_BL), 0.0
        )

    def loss(self, net, batch: Batch, key: jax.Array) -> UnbiasedLoss:
        """Two draws of z at each sample's time; the value is their mean, the gradient that of the bound, w's share in q included."""
        t_BL, density_BL = self.draw_times(batch, key)
        costs, log_qs, masked = [], [], 0.0
        for n in range(2):
            z_BL = self.corrupt_batch(batch, keys.key(key, "pair", n), t_BL)
            costs.append((self.bound_nats(net, batch, z_BL, t_BL) / density_BL).sum(1))
            log_qs.append(self.log_q(batch, z_BL, t_BL).sum(1))
            masked += ((z_BL == self.vocab.mask) & (batch.weights_BL > 0)).sum() / 2
        better_B = costs[0] - costs[1]
        score_B = log_qs[0] - log_qs[1]
        nats_B = (costs[0] + costs[1] + better_B * (score_B - jax.lax.stop_gradient(score_B))) / 2
        return UnbiasedLoss(nats_B.sum(), batch.weights_BL.sum(), {"masked_sum": masked})


class _PerToken:
    """Absorbing noise whose schedule depends on the token; what samplers and bounds ask of a process."""

    final = True

    def __init__(self, vocab: Vocab, power_V: jax.Array):
        self.vocab, self.power_V = vocab, power_V

    def corrupt(self, key_B, x_BL, t_BL, noisable_BL):
        hit_BL = keys.uniform_BL(key_B, x_BL.shape[1]) < t_BL ** self.power_V[x_BL]
        return jnp.where(hit_BL & noisable_BL, self.vocab.mask, x_BL)

    def undecided(self, z_BL, layout=None):
        """Marks the positions still to be filled, bool_BL."""
        del layout
        return z_BL == self.vocab.mask

    def log_q(self, z_BL, t_BL, x_BL):
        """log q(z_i | x_i) at each position, nats."""
        log_p_noised_BL = self.power_V[x_BL] * jnp.log(t_BL)
        kept_BL = jnp.log(-jnp.expm1(jnp.minimum(log_p_noised_BL, -1e-7)))
        return jnp.where(
            z_BL == self.vocab.mask, log_p_noised_BL, jnp.where(z_BL == x_BL, kept_BL, -jnp.inf)
        )

    def reverse(self, prediction, z_BL, t_B, s_B):
        """p(z_s | z_t): a mask becomes v with probability x̂_v (1 − (s/t)^{w_v})."""
        moved_BLV = prediction.probs() * (1 - (s_B / t_B)[:, None, None] ** self.power_V)
        mask_V = jax.nn.one_hot(self.vocab.mask, self.vocab.size)
        moved_BLV += (1 - moved_BLV.sum(-1, keepdims=True)) * mask_V
        return jnp.where(
            (z_BL == self.vocab.mask)[..., None], moved_BLV, jax.nn.one_hot(z_BL, self.vocab.size)
        )
