"""A signal at every token: fill every mask by a guess, predict all tokens from that.

    loss = masked loss(z) + weight · Σ_i −log p(x_i | ẑ)

ẑ is z with each mask replaced by a draw from p(· | z), no gradient through it (as in ProSeCo,
arXiv:2602.11590). The first term has a signal at masked positions only, the second at all of them;
it teaches the network to correct wrong tokens. Two passes. Training only: what is reported is the
bound of `masked`.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import (
    Batch,
    Claim,
    Models,
    Routing,
)
from dlm.objectives.base import scale, total
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class ProSeCo(Masked):
    """Predicts all tokens from the network's own guesses, too."""

    # Weight of the second term.
    correction: float = 0.5
    # Of the guesses; 0 takes the most likely token.
    temperature: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not (0 < self.correction < math.inf and 0 <= self.temperature < math.inf):
            values = f"correction={self.correction} must be positive and temperature="
            raise ValueError(f"{values}{self.temperature} not negative")

    @property
    def token_passes(self) -> float:
        """A second pass over the filled sequence."""
        return 2 * super().token_passes

    @property
    def loss_claims(self) -> Claim:
        """The loss has a second term."""
        return "heuristic"

    def view_nats(
        self,
        models: Models,
        batch: Batch,
        key: Array,
        z_BL: Array,
        t_BL: Array,
    ) -> tuple[Array, Routing | None]:
        """Returns the masked loss with that of the filled sequence.

        Args: as in `Masked.view_nats`.
        """
        # 1. Predict the masked tokens.
        network_time_BL = self.network_time(batch, z_BL, t_BL, models.progress)
        output = self.read(models, batch, z_BL, network_time_BL)
        nats_BL = self.nats(
            self.weights, output.prediction, batch, z_BL, t_BL, models.progress
        )
        # 2. Fill all of them with guesses, and predict every token from that, at time 0.
        key_B = keys.per_sample(keys.key(key, "guess"), batch.index_B)
        guess_BL = jax.lax.stop_gradient(
            output.prediction.sample(key_B, self.temperature)
        )
        masked_BL = self.process.undecided(z_BL, batch.layout)
        filled_BL = jnp.where(masked_BL, guess_BL, z_BL)
        second = self.read(models, batch, filled_BL, jnp.zeros_like(t_BL))
        # Every token counts, masked or not.
        scale_BL, log_prob_BL = (
            scale(batch),
            second.prediction.log_prob(batch.tokens_BL),
        )
        dense_BL = jnp.where(scale_BL != 0, -scale_BL * log_prob_BL, 0.0)
        return nats_BL + self.correction * dense_BL, total(
            output.routing, second.routing
        )
