"""Span masks: runs of neighbouring positions are masked together.

    z ~ spans of `length` positions, from a random offset, each masked with probability 1 − α_t

The loss is that of `masked`. Single masked bytes or pieces of words are determined by their
neighbours (arXiv:2605.12928 on bytes), whole words are not. Training only: a model of single masks
is what is reported (`masked`'s bound), and what is sampled.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import (
    Batch,
    Claim,
    Loss,
    Models,
)
from dlm.objectives.base import (
    LONGEST,
    SMALLEST,
    mean_of,
)
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Span(Masked):
    """Masks whole spans, which neighbours do not determine."""

    # Positions that are masked together.
    length: int = 4

    # A span is masked or not: this field of Masked is fixed, and no config has it.
    pattern: ClassVar[Literal["bernoulli"]] = "bernoulli"  # type: ignore[misc]

    def __post_init__(self):
        super().__post_init__()
        if not 2 <= self.length <= LONGEST:
            need = f"must be from 2 to {LONGEST}; single masks are objectives.masked"
            raise ValueError(f"length={self.length} {need}")

    @property
    def loss_claims(self) -> Claim:
        """What is trained is another process than the one that is reported."""
        return "heuristic"

    def counted(self) -> Masked:
        """Returns the objective of single masks with a fixed count."""
        return Masked(
            process=self.process, steps=self.steps, vocab=self.vocab
        ).counted()

    def loss(
        self,
        models: Models,
        batch: Batch,
        key: Array,
    ) -> Loss:
        """Returns the loss of one view of each sequence, or the mean of it and its complement."""
        # 1. One time for each sequence, spread evenly over the global batch.
        t_BL, density_BL = self.draw_times(models, batch, key)
        # 2. Mask spans.
        hit_BL = self._hit(batch, key, t_BL)
        z_BL = self.process.mask_out(batch.tokens_BL, hit_BL & batch.noisable_BL)
        # 3. Predict them, and charge what the masked positions cost.
        nats_BL, routing = self.view_nats(models, batch, key, z_BL, t_BL)
        time, masked_BL = (t_BL, density_BL), self.process.undecided(z_BL)
        loss = self.sums(batch, nats_BL, masked_BL, time, routing)
        if self.coupling == "single":
            return loss
        # 4. The same for the complement.
        time = jnp.maximum(1 - t_BL, SMALLEST), density_BL
        z_BL = self.complement(batch, z_BL)
        nats_BL, routing = self.view_nats(models, batch, key, z_BL, time[0])
        masked_BL = self.process.undecided(z_BL)
        return mean_of([loss, self.sums(batch, nats_BL, masked_BL, time, routing)])

    def _hit(
        self,
        batch: Batch,
        key: Array,
        t_BL: Array,
    ) -> Array:
        """Draws which positions are masked, with one number for each span."""
        # The offset moves the borders of the spans from row to row.
        L = t_BL.shape[1]
        u_BL = keys.uniform_BL(
            keys.per_sample(keys.key(key, "corrupt"), batch.index_B), L
        )
        offset_key_B = keys.per_sample(keys.key(key, "offset"), batch.index_B)
        offset_B1 = (keys.uniform_BL(offset_key_B, 1) * self.length).astype(int)
        span_BL = (jnp.arange(L) + offset_B1) // self.length
        return jnp.take_along_axis(u_BL, span_BL, 1) < self.process.schedule.noised(
            t_BL
        )
