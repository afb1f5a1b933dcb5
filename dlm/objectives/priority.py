"""Complementary priority masking: tokens that carry the structure are masked more.

    marked positions   masked by time t with probability 1 − (1 − t)^k         k: strength; 1: none
    all others         with t^k

(arXiv:2603.15803.) Each is a schedule of its own, so every masked position is weighted with its
schedule's rate. With `coupling="complementary"` the second view is the inverse: what the first
left, a mask drawn at 1 − t in which the marked positions come last. The data define which
positions are marked (`data.marked_characters`). `marks="permuted"` gives the same rates to other
positions of the same row: the control.

A rate that depends on the token reveals something about it, so this is for training alone; what is
reported is the bound of `masked`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import (
    Batch,
    Claim,
    Loss,
    Models,
    Routing,
)
from dlm.core.errors import UserError
from dlm.noise.mask import MaskNoise
from dlm.objectives.base import SMALLEST, mean_of
from dlm.objectives.masked import Masked


def _plain_masks(objective: "Priority") -> MaskNoise:
    return MaskNoise(vocab=objective.vocab)


@dataclass(frozen=True)
class Priority(Masked):
    """Masks marked tokens more than others."""

    # k, how much earlier marked tokens are masked; 1: not at all.
    strength: float = 2.0
    # The marks of the data, or as many at other positions of the row.
    marks: Literal["own", "permuted"] = "own"

    # Training has schedules of its own: these fields of Masked are fixed, and no config has them.
    process: ClassVar[Any] = property(_plain_masks)  # type: ignore[misc]
    pattern: ClassVar[Literal["bernoulli"]] = "bernoulli"  # type: ignore[misc]
    weights: ClassVar[Literal["bound"]] = "bound"  # type: ignore[misc]
    steps: ClassVar[int] = 0  # type: ignore[misc]

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.strength <= 100:
            raise ValueError(f"strength={self.strength} must be from 1 to 100")
        if self.times == "importance":
            reason = "uses the bound's costs, and priority has rates of its own"
            raise ValueError(f"times='importance' {reason}: use times='stratified'")

    @property
    def loss_claims(self) -> Claim:
        """What is trained is another process than the one that is reported."""
        return "heuristic"

    def counted(self) -> Masked:
        """Returns the objective of plain masks with a fixed count."""
        return Masked(process=self.process, vocab=self.vocab).counted()

    def loss(
        self,
        models: Models,
        batch: Batch,
        key: Array,
    ) -> Loss:
        """Returns the loss of one view of each sequence, or the mean of it and its inverse."""
        # 1. One time for each sequence, spread evenly over the global batch.
        t_BL, density_BL = self.draw_times(models, batch, key)
        # 2. Mask tokens, the marked ones first.
        first_BL = self.marked(batch, key)
        key_B = keys.per_sample(keys.key(key, "corrupt"), batch.index_B)
        u_BL = keys.uniform_BL(key_B, t_BL.shape[1])
        hit_BL = u_BL < self._p_masked(t_BL, first_BL)
        z_BL = self.process.mask_out(batch.tokens_BL, hit_BL & batch.noisable_BL)
        # 3. Predict them; the rate of a position's schedule is its weight.
        time = t_BL, density_BL / self._rate(t_BL, first_BL)
        nats_BL, routing = self.view_nats(models, batch, key, z_BL, t_BL)
        loss = self.sums(batch, nats_BL, self.process.undecided(z_BL), time, routing)
        if self.coupling == "single":
            return loss
        # 4. The same for the inverse.
        z_BL = self.process.mask_out(batch.tokens_BL, ~hit_BL & batch.noisable_BL)
        t_BL = jnp.maximum(1 - t_BL, SMALLEST)
        time = t_BL, density_BL / self._rate(t_BL, ~first_BL)
        nats_BL, routing = self.view_nats(models, batch, key, z_BL, t_BL)
        masked_BL = self.process.undecided(z_BL)
        return mean_of([loss, self.sums(batch, nats_BL, masked_BL, time, routing)])

    def view_nats(
        self,
        models: Models,
        batch: Batch,
        key: Array,
        z_BL: Array,
        t_BL: Array,
    ) -> tuple[Array, Routing | None]:
        """Returns the plain cross-entropy at masks; the rates are in the density of the times.

        Args: as in `Masked.view_nats`.
        """
        del key
        output = self.read(models, batch, z_BL, t_BL)
        return self.nats("flat", output.prediction, batch, z_BL, t_BL), output.routing

    def marked(
        self,
        batch: Batch,
        key: Array,
    ) -> Array:
        """Marks the positions that come first, bool_BL."""
        if batch.marked_BL is None:
            remedy = "say of which characters with config.data.marked_characters, such as '()+-*/='"
            raise UserError(f"objectives.priority needs marked tokens: {remedy}")
        marked_BL = batch.marked_BL > 0
        if self.marks == "own":
            return marked_BL
        # The noisable positions in a random order, then the rest: marks move among the former.
        key_B = keys.per_sample(keys.key(key, "marks"), batch.index_B)
        u_BL = keys.uniform_BL(key_B, marked_BL.shape[1])
        u_BL = jnp.where(batch.noisable_BL, u_BL, 2.0)
        from_BL = jnp.argsort(u_BL, 1)
        to_BL = jnp.argsort(~batch.noisable_BL, 1, stable=True)
        # The i-th noisable position gets the mark of the i-th one in random order.
        moved_BL = jnp.take_along_axis(marked_BL, from_BL, 1)
        return jnp.put_along_axis(marked_BL, to_BL, moved_BL, 1, inplace=False)

    def _p_masked(
        self,
        t_BL: Array,
        first_BL: Array | bool,
    ) -> Array:
        """Returns the probability of a mask by time t."""
        # 1 − (1 − t)^k, accurate near t = 0.
        before_end_BL = jnp.minimum(t_BL, 1 - 1e-7)
        log_left_BL = self.strength * jnp.log1p(-before_end_BL)
        early_BL = -jnp.expm1(log_left_BL)
        return jnp.where(first_BL, early_BL, t_BL**self.strength)

    def _rate(
        self,
        t_BL: Array,
        first_BL: Array,
    ) -> Array:
        """Returns the derivative of `_p_masked` over `_p_masked`."""
        k = self.strength
        slope_BL = k * (1 - t_BL) ** (k - 1)
        p_masked_BL = self._p_masked(t_BL, True)
        early_BL = slope_BL / jnp.maximum(p_masked_BL, 1e-12)
        # The density of times is divided by it.
        early_BL = jnp.maximum(early_BL, 1e-12)
        return jnp.where(first_BL, early_BL, k / t_BL)
