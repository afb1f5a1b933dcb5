"""A quality head, trained on the model's own samples: is token i right, given all others?

    y = z with k of its masks drawn from p(· | z), no gradient through it
    loss = masked loss(z) + quality_weight · Σ_{i of the k} BCE(q_i(y), [y_i = x_i])

(PRISM, arXiv:2510.01384, eq. 5.) The optimum of the second term is q_i(y) = P(x_i = y_i | y without
i): what is wrong can be recognised from the others, and masked again (`samplers.remask.quality`).
The head is `nn.heads=("quality",)`. Two passes. What is reported is the bound of `masked`.
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
    Prediction,
    Routing,
)
from dlm.core.errors import UserError
from dlm.objectives.base import LONGEST, scale, total
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Prism(Masked):
    """Trains a head that recognises wrong tokens."""

    # k, the masks that are filled in each sequence.
    tokens: int = 8
    # Weight of the second term.
    quality_weight: float = 1.0
    # Of the draws; 0 takes the most likely token.
    temperature: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.tokens <= LONGEST:
            raise ValueError(f"tokens={self.tokens} must be at least 1")
        if not (
            0 < self.quality_weight < math.inf and 0 <= self.temperature < math.inf
        ):
            weight = f"quality_weight={self.quality_weight} must be positive"
            raise ValueError(
                f"{weight} and temperature={self.temperature} not negative"
            )

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
        """Returns the masked loss with that of the quality head.

        Args: as in `Masked.view_nats`.
        """
        # 1. Predict the masked tokens.
        network_time_BL = self.network_time(batch, z_BL, t_BL, models.progress)
        output = self.read(models, batch, z_BL, network_time_BL)
        nats_BL = self.nats(
            self.weights, output.prediction, batch, z_BL, t_BL, models.progress
        )
        # 2. Fill some of them, and let the head recognise the wrong ones.
        filled_BL, y_BL = self.fill_some(output.prediction, batch, z_BL, key)
        second = self.read(models, batch, y_BL, network_time_BL)
        if "quality" not in second.heads:
            remedy = "set config.nn.heads=('quality',)"
            raise UserError(f"objectives.prism trains a quality head: {remedy}")
        # Binary cross-entropy from logits.
        right_BL = (y_BL == batch.tokens_BL).astype(jnp.float32)
        logit_BL = second.heads["quality"]
        bce_BL = jax.nn.softplus(logit_BL) - right_BL * logit_BL
        judged_BL = jnp.where(filled_BL, batch.weights_BL * bce_BL, 0.0)
        return nats_BL + self.quality_weight * judged_BL, total(
            output.routing, second.routing
        )

    def fill_some(
        self,
        prediction: Prediction,
        batch: Batch,
        z_BL: Array,
        key: Array,
    ) -> tuple[Array, Array]:
        """Returns (which k masks are filled, the sequence y), with no gradient."""
        key_B = keys.per_sample(keys.key(key, "judged"), batch.index_B)
        masked_BL = self.process.undecided(z_BL, batch.layout) & (scale(batch) > 0)
        # A random choice: the masks with the smallest numbers.
        u_BL = jnp.where(masked_BL, keys.uniform_BL(key_B, z_BL.shape[1]), 2.0)
        rank_BL = jnp.argsort(jnp.argsort(u_BL, 1), 1)
        filled_BL = masked_BL & (rank_BL < self.tokens)
        # Drawn from keys of their own, so that which and what are independent.
        guess_key_B = jax.vmap(lambda k: keys.key(k, "guess"))(key_B)
        guess_BL = jax.lax.stop_gradient(
            prediction.sample(guess_key_B, self.temperature)
        )
        return filled_BL, jnp.where(filled_BL, guess_BL, z_BL)
