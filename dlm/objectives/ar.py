"""Autoregression, exact: log p(x) = Σ_i log p(x_i | x_<i), on the same backbone.

With `dropout` each token of the input is a mask with that probability in training, while all are
still predicted. It is the control for the gain of masked diffusion from its corrupted input where
data are repeated (arXiv:2510.04071). What is reported stays exact.

With `mtp_weight` = λ the D layers that predict from k tokens further back (`nn.mtp_layers`) are
trained too, and through them the layers below learn to know more than the next token (multi-token
prediction, DeepSeek-V3, arXiv:2412.19437, eq. 24 and 25):

    loss = Σ_i −log p(x_i | x_<i)  +  λ/D Σ_k Σ_{i > k} −log p_k(x_i | x_<i)

p_k is layer k ahead; i is counted from 0 in its segment. Positions i ≤ k, which have no token
k + 1 back, do not count. The weight is as the paper's: 0.3 at first, 0.1 late.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import (
    Batch,
    Bound,
    Canvas,
    Claim,
    Loss,
    Mean,
    Models,
    Output,
    Prediction,
    UnbiasedLoss,
)
from dlm.nn.visibility.causal import Causal
from dlm.noise.mask import MaskNoise
from dlm.objectives.base import Base


@dataclass(frozen=True)
class AR(Base):
    """Predicts each token from those before it."""

    # Share of the input tokens that are masked in training.
    dropout: float = 0.0
    # λ, the weight of the layers that predict from further back.
    mtp_weight: float = 0.0

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")
        if not 0 <= self.mtp_weight < math.inf:
            raise ValueError(f"mtp_weight={self.mtp_weight} must not be negative")

    @property
    def claims(self) -> Claim:
        """What `bound` returns is the likelihood itself."""
        return "exact"

    @property
    def loss_claims(self) -> Claim:
        """A masked input and layers ahead change the loss."""
        return "heuristic" if self.dropout or self.mtp_weight else "exact"

    @property
    def visibility(self) -> Causal:
        """Each position attends to those before it."""
        return Causal()

    def loss(self, models: Models, batch: Batch, key: Array) -> Loss:
        """Returns the nats of the batch, behind a partly masked input where there is dropout."""
        z_BL = self._dropped(batch, key) if self.dropout else batch.tokens_BL
        output = self._read(models, batch, z_BL)
        nats, weight = _nats(output.prediction, batch).sum(), batch.weights_BL.sum()
        # Behind a partly masked input the nats are no likelihood.
        kind = Loss if self.dropout else UnbiasedLoss
        # The layers ahead are computed only where they are trained.
        if not self.mtp_weight:
            return kind(nats, weight, routing=output.routing)
        # The layers ahead; the exact nats are logged beside the sum.
        ahead_nats = _ahead_nats(output.heads["mtp"], batch)
        return Loss(
            nats + self.mtp_weight * ahead_nats,
            weight,
            dict(ahead_loss=Mean(ahead_nats, weight)),
            output.routing,
            exact_sum=None if self.dropout else nats,
        )

    def bound(
        self,
        models: Models,
        batch: Batch,
        key: Array,
        samples: int,
    ) -> Bound:
        """Returns the exact negative log-likelihood, with variance 0."""
        # Nothing is drawn.
        del key, samples
        zero_BL = jnp.zeros(batch.tokens_BL.shape)
        nats_BL = self.bound_nats(models, batch, batch.tokens_BL, zero_BL)
        return Bound(nats_BL, jnp.zeros(batch.index_B.shape))

    def bound_nats(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Array:
        """Returns −log p(x_i | x_<i), nats_BL; `z` is the clean sequence."""
        del t_BL
        return _nats(self._read(models, batch, z_BL).prediction, batch)

    def _read(self, models: Models, batch: Batch, z_BL: Array) -> Output:
        # Nothing is noised: the time is 0 everywhere.
        zero_BL = jnp.zeros(z_BL.shape)
        return models.student(Canvas.of(batch, z_BL, zero_BL, self.visibility))

    def _dropped(self, batch: Batch, key: Array) -> Array:
        """Returns the tokens with a share of masks."""
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        # Under the linear schedule the time is the share of masks.
        t_11 = jnp.full((1, 1), self.dropout)
        noise = MaskNoise(vocab=self.vocab)
        return noise.corrupt(key_B, batch.tokens_BL, t_11, batch.noisable_BL)


def _ahead_nats(predictions: tuple[Prediction, ...], batch: Batch) -> Array:
    """Returns the mean of the nats of the layers ahead.

    Layer k counts where the token k + 1 back is in the same segment.
    """
    # In packed rows a token further back may belong to another document.
    total = jnp.float32(0)
    segments_BL = batch.layout.segments_BL
    for k, prediction in enumerate(predictions, 1):
        # i > k, counted from 0 in the row.
        counted_BL = jnp.arange(batch.tokens_BL.shape[1])[None] > k
        if segments_BL is not None:
            counted_BL &= segments_BL == jnp.roll(segments_BL, k + 1, 1)
        total += jnp.where(counted_BL, _nats(prediction, batch), 0.0).sum()
    return total / len(predictions)


def _nats(prediction: Prediction, batch: Batch) -> Array:
    """Returns the weighted nats of each token; padding counts 0."""
    nats_BL = -prediction.log_prob(batch.tokens_BL)
    # The log-probability of padding may be −inf.
    return jnp.where(batch.weights_BL > 0, nats_BL * batch.weights_BL, 0.0)
