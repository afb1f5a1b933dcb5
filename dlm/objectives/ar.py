"""Autoregression: log p(x) = Σ_i log p(x_i | x_<i), exact, on the same backbone under a causal mask."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.nn.masks import Mask
from dlm.run.contracts import Batch, Bound, Canvas, Loss
from dlm.run.spec import Vocab


@dataclass(frozen=True)
class AR:
    vocab: Vocab | None = None

    claims: ClassVar = "exact"
    mask: ClassVar = Mask("causal", shift=1)
    process: ClassVar = None

    def terms(self, denoise, batch: Batch, z_BL, t_B):
        """−log p(x_i | x_<i), nats; `z` is the clean sequence, `t` is 0."""
        canvas = Canvas(z_BL, jnp.broadcast_to(t_B[:, None], z_BL.shape), ~batch.noisable_BL, batch.fields)
        nats_BL = -denoise(canvas, mask=self.mask).prediction.log_prob(batch.tokens_BL)
        return jnp.where(batch.weights_BL > 0, nats_BL * batch.weights_BL, 0.0)

    def loss(self, denoise, batch: Batch, key: jax.Array) -> Loss:
        """Exact nats of the batch; no noise is drawn, so the key is not used."""
        del key
        nats_BL = self.terms(denoise, batch, batch.tokens_BL, jnp.zeros(batch.index_B.shape))
        return Loss(nats_BL.sum(), batch.weights_BL.sum())

    def bound(self, denoise, batch: Batch, key: jax.Array, samples: int) -> Bound:
        """The exact negative log-likelihood; its variance is 0 whatever the number of samples."""
        del key, samples
        nats_BL = self.terms(denoise, batch, batch.tokens_BL, jnp.zeros(batch.index_B.shape))
        return Bound(nats_BL, jnp.zeros(batch.index_B.shape))
