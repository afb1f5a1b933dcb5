"""Span masks: runs of neighbouring positions are masked together, so that a token cannot be read off its neighbours.

    z ~ spans of `length` positions, from a random offset, each masked with probability 1 − α_t;   loss as in `masked`

Single masked bytes or pieces of words are told by what is next to them (arXiv:2605.12928 on bytes), whole words are not. Training only: a
model of single masks is what is reported (`masked`'s bound), and what is sampled.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Batch
from dlm.objectives.base import LONGEST
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Span(Masked):
    length: int = 4  # positions that are masked together

    pattern: ClassVar = (
        "bernoulli"  # a span is masked or not; a number of single masks says nothing here
    )

    def __post_init__(self):
        super().__post_init__()
        if not 2 <= self.length <= LONGEST:
            raise ValueError(
                f"length={self.length} must be from 2 to {LONGEST}; single masks are objectives.masked"
            )

    def counted(self) -> Masked:
        return Masked(process=self.process, steps=self.steps, vocab=self.vocab).counted()

    @property
    def loss_claims(self) -> str:
        return "heuristic"

    def corrupted_for_training(self, batch: Batch, key: jax.Array, t_BL):
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        L = t_BL.shape[1]
        u_BL = keys.uniform_BL(key_B, L)
        offset_B1 = (
            keys.uniform_BL(keys.per_sample(keys.key(key, "offset"), batch.index_B), 1)
            * self.length
        ).astype(int)
        span_BL = (jnp.arange(L) + offset_B1) // self.length
        hit_BL = jnp.take_along_axis(u_BL, span_BL, 1) < self.process.mask_prob(t_BL)
        return jnp.where(hit_BL & batch.noisable_BL, self.vocab.mask, batch.tokens_BL)
