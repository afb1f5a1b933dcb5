"""A judge of tokens, trained on the model's own draws (PRISM, arXiv:2510.01384, eq. 5): is token i right, given all others?

    y = z with k of its masks drawn from p(· | z), no gradient through it
    loss = masked loss(z) + quality_weight · Σ_{i of the k} BCE(q_i(y), [y_i = x_i])

The optimum of the second term is q_i(y) = P(x_i = y_i | y without i): what is wrong is seen from the others, and can be masked again
(`samplers.remask.quality`). The head is `nn.heads=("quality",)`. Two passes. Reported is the bound of `masked`.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Batch
from dlm.core.errors import UserError
from dlm.objectives.base import LONGEST
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Prism(Masked):
    tokens: int = 8  # k, drawn in each sequence
    quality_weight: float = 1.0  # weight of the second term
    temperature: float = 1.0  # of the draws; 0 takes the likeliest

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.tokens <= LONGEST:
            raise ValueError(f"tokens={self.tokens} must be at least 1")
        if not (0 < self.quality_weight < math.inf and 0 <= self.temperature < math.inf):
            raise ValueError(
                f"quality_weight={self.quality_weight} must be positive and temperature={self.temperature} not negative"
            )

    @property
    def token_passes(self) -> int:
        return 2 * super().token_passes

    @property
    def loss_claims(self) -> str:
        return "heuristic"

    def training_nats(self, net, batch: Batch, z_BL, t_BL, key):
        network_time_BL = self.network_time(batch, z_BL, t_BL)
        output = self.read(net, batch, z_BL, network_time_BL)
        is_judged_BL, y_BL = self.fill_some(output.prediction, batch, z_BL, key)
        heads = self.read(net, batch, y_BL, network_time_BL).heads
        if "quality" not in heads:
            raise UserError(
                "objectives.prism trains a judge of tokens: set config.nn.heads=('quality',)"
            )
        right_BL = (y_BL == batch.tokens_BL).astype(jnp.float32)
        logit_BL = heads["quality"]
        bce_BL = jax.nn.softplus(logit_BL) - right_BL * logit_BL
        is_judged_BL = jnp.where(is_judged_BL, batch.weights_BL * bce_BL, 0.0)
        return (
            self.weighted_nats(self.weights, output, batch, z_BL, t_BL)
            + self.quality_weight * is_judged_BL
        )

    def fill_some(self, prediction, batch: Batch, z_BL, key):
        """(which k masks are filled, y), with no gradient."""
        key_B = keys.per_sample(keys.key(key, "judged"), batch.index_B)
        masked_BL = (z_BL == self.vocab.mask) & batch.noisable_BL & (batch.weights_BL > 0)
        u_BL = jnp.where(masked_BL, keys.uniform_BL(key_B, z_BL.shape[1]), 2.0)
        is_judged_BL = masked_BL & (jnp.argsort(jnp.argsort(u_BL, 1), 1) < self.tokens)
        guess_BL = jax.lax.stop_gradient(
            prediction.sample(jax.vmap(lambda k: keys.key(k, "guess"))(key_B), self.temperature)
        )
        return is_judged_BL, jnp.where(is_judged_BL, guess_BL, z_BL)
