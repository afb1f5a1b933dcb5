"""Complementary priority masking: tokens that carry the structure are masked more, then the inverse (arXiv:2603.15803).

    marked positions   masked by time t with probability 1 − (1 − t)^k         k: strength; 1 is no priority
    all others         with t^k

Each is a schedule of its own, so every masked position is weighed with its schedule's rate. With `coupling="complementary"` the second view
is the inverse: what the first left, a mask drawn at 1 − t in which the marked positions come last. Which positions are marked the data
say (`data.marked_characters`). `marks="permuted"` gives the same rates to other positions of the same row: the control.

A rate that depends on the token tells something about it, so this is for training alone; reported is the bound of `masked`.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Batch
from dlm.core.errors import UserError
from dlm.noise.mask import MaskNoise
from dlm.objectives.base import SMALLEST
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Priority(Masked):
    strength: float = 2.0  # k
    marks: Literal["own", "permuted"] = "own"

    process: ClassVar = property(
        lambda self: MaskNoise(vocab=self.vocab)
    )  # what is reported; training has schedules of its own
    pattern: ClassVar = "bernoulli"
    weights: ClassVar = "bound"
    steps: ClassVar = 0

    def __post_init__(self):
        super().__post_init__()
        if not 1 <= self.strength <= 100:
            raise ValueError(f"strength={self.strength} must be from 1 to 100")
        if self.times == "importance":
            raise ValueError(
                "times='importance' knows the bound's costs, and priority has rates of its own: use times='stratified'"
            )

    def counted(self) -> Masked:
        return Masked(process=self.process, steps=self.steps, vocab=self.vocab).counted()

    @property
    def loss_claims(self) -> str:
        return "heuristic"

    def views(self, batch: Batch, key: jax.Array):
        t_BL, density_BL = self.draw_times(batch, key)
        first_BL = self.marked(batch, key)
        hit_BL = keys.uniform_BL(
            keys.per_sample(keys.key(key, "corrupt"), batch.index_B), t_BL.shape[1]
        ) < self._p_masked(t_BL, first_BL)
        views = [(self._masks(batch, hit_BL), t_BL, density_BL / self._rate(t_BL, first_BL))]
        if self.coupling == "complementary":
            t_BL = jnp.maximum(1 - t_BL, SMALLEST)
            views.append(
                (self._masks(batch, ~hit_BL), t_BL, density_BL / self._rate(t_BL, ~first_BL))
            )
        return views

    def training_nats(self, net, batch: Batch, z_BL, t_BL, key):
        return self.weighted_nats("flat", self.read(net, batch, z_BL, t_BL), batch, z_BL, t_BL)

    def marked(self, batch: Batch, key: jax.Array):
        """Which positions come first, bool_BL."""
        if batch.marked_BL is None:
            raise UserError(
                "objectives.priority needs marked tokens: say of which characters with config.data.marked_characters, such as '()+-*/='"
            )
        marked_BL = batch.marked_BL > 0
        if self.marks == "own":
            return marked_BL
        u_BL = keys.uniform_BL(
            keys.per_sample(keys.key(key, "marks"), batch.index_B), marked_BL.shape[1]
        )
        from_BL = jnp.argsort(
            jnp.where(batch.noisable_BL, u_BL, 2.0), 1
        )  # noisable positions in a random order, then the rest
        to_BL = jnp.argsort(~batch.noisable_BL, 1, stable=True)
        return jnp.put_along_axis(
            marked_BL, to_BL, jnp.take_along_axis(marked_BL, from_BL, 1), 1, inplace=False
        )

    def _p_masked(self, t_BL, first_BL):
        """Probability of a mask by time t."""
        return jnp.where(
            first_BL,
            -jnp.expm1(self.strength * jnp.log1p(-jnp.minimum(t_BL, 1 - 1e-7))),
            t_BL**self.strength,
        )

    def _rate(self, t_BL, first_BL):
        """The derivative of `_gone` over `_gone`."""
        first_rate_BL = (
            self.strength
            * (1 - t_BL) ** (self.strength - 1)
            / jnp.maximum(self._p_masked(t_BL, True), 1e-12)
        )
        return jnp.where(first_BL, jnp.maximum(first_rate_BL, 1e-12), self.strength / t_BL)

    def _masks(self, batch: Batch, hit_BL):
        return jnp.where(hit_BL & batch.noisable_BL, self.vocab.mask, batch.tokens_BL)
