"""Autoregression: log p(x) = Σ_i log p(x_i | x_<i), exact, on the same backbone under a causal mask.

With `dropout` each token that the model reads in training is a mask with that probability, while all are still predicted: the control
for what masked diffusion gains from its corrupted input when data are repeated (arXiv:2510.04071). What is reported stays exact.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.nn.masks import Mask
from dlm.noise.mask import MaskNoise
from dlm.run import keys
from dlm.run.contracts import Batch, Bound, Canvas, Estimate, Loss
from dlm.run.spec import Vocab


@dataclass(frozen=True)
class AR:
    dropout: float = 0.0  # share of the input tokens that are masked in training
    vocab: Vocab | None = None

    claims: ClassVar = "exact"
    mask: ClassVar = Mask("causal", shift=1)
    process: ClassVar = None
    reads: ClassVar = 1

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")

    def memory(self):
        """Nothing is remembered from update to update."""
        return None

    @property
    def trains(self) -> str:
        return "heuristic" if self.dropout else "exact"

    def terms(self, denoise, batch: Batch, z_BL, t_BL):
        """−log p(x_i | x_<i), nats; `z` is the clean sequence, `t` is 0."""
        canvas = Canvas(z_BL, t_BL, ~batch.noisable_BL, batch.fields)
        nats_BL = -denoise(canvas, mask=self.mask).prediction.log_prob(batch.tokens_BL)
        return jnp.where(batch.weights_BL > 0, nats_BL * batch.weights_BL, 0.0)

    def loss(self, denoise, batch: Batch, key: jax.Array) -> Loss:
        """Nats of the batch, exact without dropout; with it, those of the tokens behind an input of which a part is masked."""
        z_BL = batch.tokens_BL
        if self.dropout:
            key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
            z_BL = MaskNoise(vocab=self.vocab).corrupt(key_B, z_BL, jnp.full((1, 1), self.dropout), batch.noisable_BL)
        nats_BL = self.terms(denoise, batch, z_BL, jnp.zeros(z_BL.shape))
        return (Loss if self.dropout else Estimate)(nats_BL.sum(), batch.weights_BL.sum())

    def bound(self, denoise, batch: Batch, key: jax.Array, samples: int) -> Bound:
        """The exact negative log-likelihood; its variance is 0 whatever the number of samples."""
        del key, samples
        nats_BL = self.terms(denoise, batch, batch.tokens_BL, jnp.zeros(batch.tokens_BL.shape))
        return Bound(nats_BL, jnp.zeros(batch.index_B.shape))
