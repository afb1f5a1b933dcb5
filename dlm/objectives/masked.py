"""Masked diffusion: the negative evidence bound of absorbing noise (MDLM, arXiv:2406.07524 eq. 10; MD4, 2406.04329 eq. 4).

    −log p(x) ≤ E_t E_{z ~ q(z_t|x)} [ w(t) Σ_{i masked} −log p(x_i | z) ],      t ~ U(0, 1)
    continuous time   w(t) = −α'(t)/(1 − α(t)), which is 1/t for the linear schedule
    T steps           t ∈ {1/T, …, 1}, s = t − 1/T,  w = T (α_s − α_t)/(1 − α_t)

With α(0) = 1 and α(1) = 0 there are no further terms. The sum is over masked positions and is never divided by their number.

`coupling="complementary"` looks at each sequence twice, through a mask and through its complement, so that every token is predicted
once (arXiv:2505.16839, with the bound's own weights): under the linear schedule the complement of a mask drawn at t is one drawn at 1 − t,
and the mean of both has the bound as its mean.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.nn.masks import Mask
from dlm.noise.times import Kind, draw
from dlm.run import keys
from dlm.run.contracts import Batch, Bound, Canvas, Loss
from dlm.run.spec import Vocab, member

_SMALLEST = 1e-6  # u ~ U[0, 1) may be 0; the bias is below float32's resolution of the bound


@dataclass(frozen=True)
class Masked:
    process: Any = member("noise", "mask")
    times: Kind = "stratified"  # how t is drawn: noise.times
    coupling: Literal["single", "complementary"] = "single"  # complementary: twice the passes for each sequence
    steps: int = 0  # of the discretised bound; 0 is continuous time
    vocab: Vocab | None = None

    claims: ClassVar = "bound"
    mask: ClassVar = Mask("full")

    def __post_init__(self):
        if self.steps < 0:
            raise ValueError(f"steps={self.steps} must be 0 (continuous time) or positive")
        if self.coupling == "complementary" and (self.steps or getattr(self.process, "schedule", "linear") != "linear"):
            raise ValueError("coupling='complementary' needs steps=0 and process.schedule='linear', where a complement has a time, 1 − t")

    def weight(self, t):
        """w(t), so that E_t of the weighted terms is the bound."""
        if not self.steps:
            return self.process.rate(t)
        return self.steps * self.process.reveal_prob(t, t - 1 / self.steps)

    def terms(self, denoise, batch: Batch, z_BL, t_B):
        """w(t)·(−log p(x_i | z)) at masked positions, 0 elsewhere, nats."""
        canvas = Canvas(z_BL, jnp.broadcast_to(t_B[:, None], z_BL.shape), ~batch.noisable_BL, batch.fields)
        nats_BL = -denoise(canvas, mask=self.mask).prediction.log_prob(batch.tokens_BL)
        counted_BL = (z_BL == self.vocab.mask) & (batch.weights_BL > 0)
        return jnp.where(counted_BL, self.weight(t_B)[:, None] * batch.weights_BL * nats_BL, 0.0)

    def loss(self, denoise, batch: Batch, key: jax.Array) -> Loss:
        """One draw of t and z per sample: an unbiased estimate of the batch's bound."""
        t_B = self._grid(self.uniform(batch, key))
        z_BL = self.corrupted(batch, key, t_B)
        loss = self._at(denoise, batch, z_BL, t_B)
        if self.coupling == "single":
            return loss
        other_BL = jnp.where(batch.noisable_BL & (z_BL != self.vocab.mask), self.vocab.mask, batch.tokens_BL)
        return jax.tree.map(lambda a, b: (a + b) / 2, loss, self._at(denoise, batch, other_BL, self._grid(1 - t_B)))

    def _at(self, denoise, batch: Batch, z_BL, t_B) -> Loss:
        counted_BL = (z_BL == self.vocab.mask) & (batch.weights_BL > 0)
        return Loss(self.terms(denoise, batch, z_BL, t_B).sum(), batch.weights_BL.sum(), {"masked_sum": counted_BL.sum() * 1.0})

    def bound(self, denoise, batch: Batch, key: jax.Array, samples: int) -> Bound:
        """Mean of `samples` draws (an even number), t stratified within each sequence; memory is that of one draw.

        The variance is estimated from neighbouring strata, E(y_2j − y_2j+1)² ≥ var y_2j + var y_2j+1 (Cochran's collapsed
        strata), so it errs on the safe side.
        """
        if samples < 2 or samples % 2:
            raise ValueError(f"samples={samples} must be even and at least 2, to pair neighbouring strata")

        def one(_, k):
            sample_key = keys.key(key, "bound", k)
            t_B = self._grid((k + draw("iid", batch.index_B, batch.total, sample_key)) / samples)
            return None, self.terms(denoise, batch, self.corrupted(batch, sample_key, t_B), t_B)

        _, terms_TBL = jax.lax.scan(one, None, jnp.arange(samples))
        pairs = terms_TBL.sum(-1).reshape(samples // 2, 2, -1)
        return Bound(terms_TBL.mean(0), jnp.square(pairs[:, 0] - pairs[:, 1]).sum(0) / samples**2)

    def uniform(self, batch: Batch, key: jax.Array):
        """u_B in [0, 1], one per sample (`noise.times`)."""
        return draw(self.times, batch.index_B, batch.total, key)

    def corrupted(self, batch: Batch, key: jax.Array, t_B):
        """z ~ q(z_t | x), keyed by sample number."""
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        return self.process.corrupt(key_B, batch.tokens_BL, t_B, batch.noisable_BL)

    def _grid(self, t_B):
        """Continuous t away from 0, or the end of its step on the grid {1/T, …, 1}."""
        return jnp.ceil(jnp.maximum(t_B, _SMALLEST) * self.steps) / self.steps if self.steps else jnp.maximum(t_B, _SMALLEST)
