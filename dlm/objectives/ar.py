"""Autoregression: log p(x) = Σ_i log p(x_i | x_<i), exact, on the same backbone under a causal mask.

With `dropout` each token that the model reads in training is a mask with that probability, while all are still predicted: the control
for what masked diffusion gains from its corrupted input when data are repeated (arXiv:2510.04071). What is reported stays exact.

With `mtp_weight` = λ the layers that predict from k tokens further back (`nn.mtp_layers` = D of them) are trained too, and through them the layers
below learn to know more than the next token (multi-token prediction, DeepSeek-V3, arXiv:2412.19437, eq. 24 and 25):

    loss = Σ_i −log p(x_i | x_<i)  +  λ/D Σ_k Σ_{i > k} −log p_k(x_i | x_<i)      p_k: layer k ahead, i counted from 0 in its segment

Positions i ≤ k, which have no token k + 1 back, do not count. The weight is as the paper's: 0.3 at first, 0.1 late.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Batch, Bound, Canvas, Loss, Output, UnbiasedLoss, Visibility
from dlm.core.vocab import Vocab
from dlm.nn.visibility.causal import Causal
from dlm.noise.mask import MaskNoise


@dataclass(frozen=True)
class AR:
    dropout: float = 0.0  # share of the input tokens that are masked in training
    mtp_weight: float = (
        0.0  # λ, the weight of what layers predict from further back; where nn.mtp_layers > 0
    )
    vocab: Vocab | None = None

    claims: ClassVar = "exact"
    visibility: ClassVar[Visibility] = Causal()
    process: ClassVar = None
    token_passes: ClassVar = 1

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")
        if not 0 <= self.mtp_weight < math.inf:
            raise ValueError(f"mtp_weight={self.mtp_weight} must not be negative")

    def counted(self) -> "AR":
        """Itself: nothing is destroyed."""
        return self

    def memory(self):
        """Nothing is remembered from update to update."""
        return None

    @property
    def loss_claims(self) -> str:
        return "heuristic" if self.dropout or self.mtp_weight else "exact"

    def bound_nats(self, net, batch: Batch, z_BL, t_BL):
        """−log p(x_i | x_<i), nats; `z` is the clean sequence, `t` is 0."""
        return _nats(self._read(net, batch, z_BL, t_BL).prediction, batch)

    def loss(self, net, batch: Batch, key: jax.Array) -> Loss:
        """Nats of the batch, exact without dropout and layers ahead; with dropout, those of the tokens behind an input of which a part is
        masked. Beside the layers ahead the exact ones are told as `nats_sum`."""
        z_BL = batch.tokens_BL
        if self.dropout:
            key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
            z_BL = MaskNoise(vocab=self.vocab).corrupt(
                key_B, z_BL, jnp.full((1, 1), self.dropout), batch.noisable_BL
            )
        output = self._read(net, batch, z_BL, jnp.zeros(z_BL.shape))
        nats, weight = _nats(output.prediction, batch).sum(), batch.weights_BL.sum()
        if not self.mtp_weight:
            return (Loss if self.dropout else UnbiasedLoss)(nats, weight)
        mtp_nats = self._mtp_nats(output, batch)
        exact_sums = {} if self.dropout else dict(nats_sum=nats)
        return Loss(
            nats + self.mtp_weight * mtp_nats, weight, dict(ahead_sum=mtp_nats, **exact_sums)
        )

    def bound(self, net, batch: Batch, key: jax.Array, samples: int) -> Bound:
        """The exact negative log-likelihood; its variance is 0 whatever the number of samples."""
        del key, samples
        nats_BL = self.bound_nats(net, batch, batch.tokens_BL, jnp.zeros(batch.tokens_BL.shape))
        return Bound(nats_BL, jnp.zeros(batch.index_B.shape))

    def _read(self, net, batch: Batch, z_BL, t_BL) -> Output:
        return net(Canvas.of(batch, z_BL, t_BL, self.visibility))

    def _mtp_nats(self, output: Output, batch: Batch) -> jax.Array:
        """Nats of the layers ahead, their mean; layer k counts where a token k + 1 back is in the same segment."""
        predictions, total = output.heads["mtp"], jnp.float32(0)
        segments_BL = batch.layout.segments_BL
        for k, prediction in enumerate(predictions, 1):
            counted_BL = jnp.arange(batch.tokens_BL.shape[1])[None] > k
            if segments_BL is not None:
                counted_BL &= segments_BL == jnp.roll(segments_BL, k + 1, 1)
            total += jnp.where(counted_BL, _nats(prediction, batch), 0.0).sum()
        return total / len(predictions)


def _nats(prediction, batch: Batch) -> jax.Array:
    nats_BL = -prediction.log_prob(batch.tokens_BL)
    return jnp.where(batch.weights_BL > 0, nats_BL * batch.weights_BL, 0.0)
