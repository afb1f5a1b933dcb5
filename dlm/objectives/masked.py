"""Masked diffusion: the negative evidence bound of absorbing noise (MDLM, arXiv:2406.07524 eq. 10; MD4, 2406.04329 eq. 4).

    −log p(x) ≤ E_t E_{z ~ q(z_t|x)} [ w(t) Σ_{i masked} −log p(x_i | z) ],      t ~ U(0, 1)
    continuous time   w(t) = −α'(t)/(1 − α(t)), which is 1/t for the linear schedule
    T steps           t ∈ {1/T, …, 1}, s = t − 1/T,  w = T (α_s − α_t)/(1 − α_t)
    fixed count       k ~ U{1, …, n} positions of n are masked,  w = n/k  (`pattern="count"`; the bound of any-order autoregression)

With α(0) = 1 and α(1) = 0 there are no further terms. The sum is over masked positions and is never divided by their number.

`coupling="complementary"` looks at each sequence twice, through a mask and through its complement, so that every token is predicted
once (arXiv:2505.16839, with the bound's own weights): under the linear schedule the complement of a mask drawn at t is one drawn at 1 − t,
that of k masks one of n − k, and the mean of both has the bound as its mean. (The complement of n masks would be none; it is n again.)

`weights` are those of training: the bound's; `flat`, 1 at every masked position; `context`, more where kept tokens are near
(CART in Dream, arXiv:2508.15487: ½ Σ_{j kept} p(1 − p)^(|i−j|−1)). With the latter two the loss is no estimate of the bound, which is still
what is reported.
"""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from dlm.core import keys
from dlm.core.config import member
from dlm.core.contracts import Batch, Output, Visibility
from dlm.nn.visibility.full import Full
from dlm.noise import fixed_count
from dlm.noise.mask import MaskNoise
from dlm.noise.schedules.linear import Linear
from dlm.noise.time_sampling import Kind
from dlm.objectives.base import LONGEST, SMALLEST, Diffusion

_NEAR = 0.3  # p of the geometric law in `context`


@dataclass(frozen=True)
class Masked(Diffusion):
    process: Any = member("noise", "mask")
    times: Kind = "stratified"
    pattern: Literal["bernoulli", "count"] = (
        "bernoulli"  # each position on its own, or a fixed number of them
    )
    coupling: Literal["single", "complementary"] = (
        "single"  # complementary: twice the passes for each sequence
    )
    weights: Literal["bound", "flat", "context"] = "bound"
    steps: int = 0  # of the discretised bound; 0 is continuous time

    visibility: ClassVar[Visibility] = Full()

    def __post_init__(self):
        if not 0 <= self.steps <= LONGEST:
            raise ValueError(
                f"steps={self.steps} must be 0 (continuous time) or positive, up to {LONGEST}"
            )
        if not self.process.final:
            name = type(self.process).__module__.removeprefix("dlm.")
            raise ValueError(
                f"process.name={name!r} leaves no masks: it needs noise.mask, or objective.name='objectives.hybrid'"
            )
        plain = not self.steps and self.process.schedule == Linear()
        if self.coupling == "complementary" and not plain:
            raise ValueError(
                "coupling='complementary' needs steps=0 and process.schedule='linear', where a complement has a time, 1 − t"
            )
        if self.times == "importance" and self.steps:
            raise ValueError(f"times='importance' needs continuous time, not steps={self.steps}")
        if self.pattern == "count" and not plain:
            raise ValueError(
                "pattern='count' needs steps=0 and process.schedule='linear': a number of masks has no other schedule"
            )

    @property
    def token_passes(self) -> int:
        return 1 if self.coupling == "single" else 2

    @property
    def loss_claims(self) -> str:
        return self.claims if self.weights == "bound" else "heuristic"

    def counted(self) -> "Masked":
        """The schedule weighs each number of masks alike in continuous time, so that none is needed; a grid of times is another bound."""
        return (
            self
            if self.steps
            else replace(self, process=MaskNoise(vocab=self.vocab), pattern="count")
        )

    def weight(self, t_BL):
        """w(t), so that E_t of the weighted terms is the bound."""
        if not self.steps:
            return self.process.rate(t_BL)
        return self.steps * self.process.reveal_prob(t_BL, t_BL - 1 / self.steps)

    def bound_nats(self, net, batch: Batch, z_BL, t_BL):
        """w(t)·(−log p(x_i | z)) at masked positions, 0 elsewhere, nats."""
        t_BL = self.network_time(batch, z_BL, t_BL)
        return self.weighted_nats("bound", self.read(net, batch, z_BL, t_BL), batch, z_BL, t_BL)

    def training_nats(self, net, batch: Batch, z_BL, t_BL, key):
        t_BL = self.network_time(batch, z_BL, t_BL)
        return self.weighted_nats(
            self.weights, self.read(net, batch, z_BL, t_BL), batch, z_BL, t_BL
        )

    def read(self, net, batch: Batch, z_BL, t_BL) -> Output:
        """What the network says of the destroyed sequence."""
        return net(self.canvas(batch, z_BL, t_BL))

    def weighted_nats(self, weights: str, output: Output, batch: Batch, z_BL, t_BL):
        """The cross-entropy at masked positions under one of the `weights`."""
        scale = {"bound": self._scale, "flat": lambda *_: 1.0, "context": self._context_weight}[
            weights
        ](batch, z_BL, t_BL)
        counted_BL = (z_BL == self.vocab.mask) & (batch.weights_BL > 0)
        return jnp.where(
            counted_BL, -scale * batch.weights_BL * output.prediction.log_prob(batch.tokens_BL), 0.0
        )

    def network_time(self, batch: Batch, z_BL, t_BL):
        """The time that the network is told: where masks are counted, their share."""
        if self.pattern == "bernoulli":
            return t_BL
        return jnp.broadcast_to(
            self._masked(z_BL, batch) / jnp.maximum(self._size(batch), 1), z_BL.shape
        )

    def _scale(self, batch: Batch, z_BL, t_BL):
        if self.pattern == "count":
            return self._size(batch) / jnp.maximum(self._masked(z_BL, batch), 1)
        return self.weight(t_BL)

    def _context_weight(self, batch: Batch, z_BL, t_BL):
        i_L = jnp.arange(z_BL.shape[1])
        distance_LL = jnp.abs(i_L[:, None] - i_L)
        near_LL = jnp.where(
            distance_LL > 0, 0.5 * _NEAR * (1 - _NEAR) ** jnp.maximum(distance_LL - 1, 0), 0.0
        )
        shown_BL = jnp.where((z_BL == self.vocab.mask) | (batch.weights_BL == 0), 0.0, 1.0)
        segments_BL = batch.layout.segments_BL
        if segments_BL is None:
            segments_BL = jnp.ones_like(z_BL)
        same_BLL = segments_BL[:, :, None] == segments_BL[:, None, :]
        return jnp.einsum("BM,BLM,LM->BL", shown_BL, same_BLL.astype(jnp.float32), near_LL)

    # ---------------------------------------------------------------------------------------- what is masked at a time

    def groups(self, batch: Batch):
        """Whose masks are counted together; None: those of a row."""
        return None

    def _size(self, batch: Batch):
        return fixed_count.total(batch.noisable_BL, self.groups(batch))

    def _masked(self, z_BL, batch: Batch):
        return fixed_count.total((z_BL == self.vocab.mask) & batch.noisable_BL, self.groups(batch))

    def time_cells(self, length):
        return self.steps if self.pattern == "bernoulli" else math.lcm(*range(1, length + 1))

    def at(self, u_BP, batch):
        t_BL = super().at(u_BP, batch)
        return jnp.ceil(t_BL * self.steps) / self.steps if self.steps else t_BL

    def corrupt_batch(self, batch, key, t_BL):
        if self.pattern == "bernoulli":
            return super().corrupt_batch(batch, key, t_BL)
        u_BL = keys.uniform_BL(
            keys.per_sample(keys.key(key, "corrupt"), batch.index_B), t_BL.shape[1]
        )
        k_BL = fixed_count.number(t_BL, self._size(batch))
        chosen_BL = fixed_count.chosen(u_BL, batch.noisable_BL, k_BL, self.groups(batch))
        return jnp.where(chosen_BL, self.vocab.mask, batch.tokens_BL)

    def log_q(self, batch, z_BL, t_BL):
        if self.pattern == "bernoulli":
            return super().log_q(batch, z_BL, t_BL)
        masked_BL, k_BL = z_BL == self.vocab.mask, fixed_count.number(t_BL, self._size(batch))
        log_q_BL = fixed_count.log_law(masked_BL, batch.noisable_BL, k_BL, self.groups(batch))
        return jnp.where(masked_BL | (z_BL == batch.tokens_BL), log_q_BL, -jnp.inf)

    def views(self, batch, key):
        (z_BL, t_BL, density_BL), *_ = views = super().views(batch, key)
        if self.coupling == "complementary":
            again_BL = (
                self._masked(z_BL, batch) == self._size(batch) if self.pattern == "count" else False
            )
            left_BL = batch.noisable_BL & ((z_BL != self.vocab.mask) | again_BL)
            views.append(
                (
                    jnp.where(left_BL, self.vocab.mask, batch.tokens_BL),
                    jnp.maximum(1 - t_BL, SMALLEST),
                    density_BL,
                )
            )
        return views
