"""Dense signal from the model's own guesses, as in ProSeCo (arXiv:2602.11590): fill every mask, then predict all tokens from that.

    loss = masked loss(z) + weight · Σ_i −log p(x_i | ẑ),      ẑ: z with each mask replaced by a draw from p(· | z), no gradient through it

The first term has a signal at masked positions only, the second at all of them; it teaches the network to correct wrong tokens. Two
passes. Training only: reported is the bound of `masked`.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Batch
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class ProSeCo(Masked):
    correction: float = 0.5  # weight of the second term
    temperature: float = 1.0  # of the guesses; 0 takes the likeliest

    def __post_init__(self):
        super().__post_init__()
        if not (0 < self.correction < math.inf and 0 <= self.temperature < math.inf):
            raise ValueError(
                f"correction={self.correction} must be positive and temperature={self.temperature} not negative"
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
        key_B = keys.per_sample(keys.key(key, "guess"), batch.index_B)
        guess_BL = jax.lax.stop_gradient(output.prediction.sample(key_B, self.temperature))
        filled_BL = jnp.where(z_BL == self.vocab.mask, guess_BL, z_BL)
        again = self.read(net, batch, filled_BL, jnp.zeros_like(t_BL)).prediction
        counted_BL = batch.noisable_BL & (batch.weights_BL > 0)
        dense_BL = jnp.where(counted_BL, -batch.weights_BL * again.log_prob(batch.tokens_BL), 0.0)
        return (
            self.weighted_nats(self.weights, output, batch, z_BL, t_BL) + self.correction * dense_BL
        )
