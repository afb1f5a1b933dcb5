"""Each token of the vocabulary has a schedule of its own, and it is learned.

    α_{t,v} = 1 − t^{w_v}          a token with a large w is masked late, and so revealed early
    −log p(x) ≤ E_t E_z Σ_{i masked} (1/t) [ Σ_v w_v x̂_v − w_x (1 + log x̂_x) ]

x̂ is the network's law of x_i given z and t (GenMD4, arXiv:2406.04329, section 6). With all w = 1
this is masked diffusion's bound. The rate of revealing v is (w_v/t) x̂_v, so the optimum of x̂ is
p(x_i | z, t), to which the mask at i itself contributes t^{w_x}: give the network the time
(`nn.time="adaln"`). Since w shapes the law of z too, its gradient needs the score function. Two
draws of z at the same t are each other's baseline (REINFORCE leave-one-out):

    ∇ = E [ ½ ∇(L₁ + L₂) + ½ (L₁ − L₂) ∇(log q(z₁ | x) − log q(z₂ | x)) ]
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import (
    Batch,
    Loss,
    Mean,
    Models,
    UnbiasedLoss,
)
from dlm.noise.per_token import PerToken
from dlm.noise.schedules import polynomial
from dlm.noise.time_sampling import Kind
from dlm.objectives.base import (
    Diffusion,
    scale,
    total,
)


@dataclass(frozen=True)
class Learned(Diffusion):
    """Masked diffusion whose noise is trained with the network."""

    # How the times of a batch are drawn.
    times: Kind = "stratified"

    def __post_init__(self):
        if self.times == "importance":
            reason = "uses the cost of one view, and learned schedules compare two"
            raise ValueError(f"times='importance' {reason}: use times='stratified'")

    @property
    def token_passes(self) -> float:
        """Two draws of each sequence."""
        return 2

    def init(self, key: Array) -> dict:
        """Returns {'power_V': …}, from which w follows; zeros are w = 1."""
        del key
        return {"power_V": jnp.zeros(self.vocab.size)}

    @property
    def process(self) -> PerToken:
        """The process with w = 1."""
        return PerToken(jnp.ones(self.vocab.size), self.vocab)

    def process_of(self, own: dict) -> PerToken:
        """Returns the process with the learned w."""
        # Without parameters all tokens share the linear schedule.
        if not own:
            return self.process
        return PerToken(jnp.exp(_range(own["power_V"])), self.vocab)

    def loss(
        self,
        models: Models,
        batch: Batch,
        key: Array,
    ) -> Loss:
        """Returns the mean of two draws of z at each sample's time.

        Its gradient is that of the bound, including the share of w in q.
        """
        x_BL = batch.tokens_BL
        # 1. One time for each sequence, spread evenly over the global batch.
        t_BL, density_BL = self.draw_times(models, batch, key)
        # 2. Destroy tokens, predict them and charge the masks, twice.
        costs_B, log_qs_B, routing = [], [], []
        masked = jnp.zeros(())
        for n in range(2):
            process = self.process_of(models.own)
            z_BL = self.corrupt(models, batch, keys.key(key, "pair", n), t_BL)
            output = self.read(models, batch, z_BL, t_BL)
            nats_BL = process.charge(output.prediction, x_BL, z_BL, t_BL, scale(batch))
            costs_B.append((nats_BL / density_BL).sum(1))
            log_qs_B.append(self.log_q(batch, z_BL, t_BL, models.own).sum(1))
            masked_BL = process.undecided(z_BL) & (batch.weights_BL > 0)
            masked += masked_BL.sum() / 2
            routing.append(output.routing)
        # 3. The score function, of value 0: each draw is the other's baseline.
        better_B = costs_B[0] - costs_B[1]
        score_B = log_qs_B[0] - log_qs_B[1]
        score_B = better_B * (score_B - jax.lax.stop_gradient(score_B))
        # The value is the mean of both draws.
        nats_B = (costs_B[0] + costs_B[1] + score_B) / 2
        weight = batch.weights_BL.sum()
        metrics = dict(masked_share=Mean(masked, weight))
        return UnbiasedLoss(nats_B.sum(), weight, metrics, total(*routing))


def _range(log_V: Array) -> Array:
    """Returns log w between those of the powers that float32 times allow.

    Otherwise the bound could be lowered next to t = 0, where no times are drawn. It is smooth, so
    that w can return from the ends, and 0 at 0.
    """
    # The sigmoid starts where w = 1.
    low, high = math.log(polynomial.SMALLEST_POWER), math.log(polynomial.LARGEST_POWER)
    start = math.log(-low / high)
    return low + (high - low) * jax.nn.sigmoid(log_V + start)
