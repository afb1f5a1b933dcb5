"""Masked diffusion that continues the training of an autoregressive model.

    shift           token i is predicted at token i − 1, as the model has learned to:
                    logits_i ← network(z)_{i−1}
    reach_warmup    at first a position attends to itself and to what precedes it, as the model
                    does. How far it looks ahead grows with the share s of the updates done,
                    until at s = reach_warmup it attends to everything:
                    reach = ⌊L · s / reach_warmup⌋

(DiffuLLaMA, arXiv:2410.17891, section 3; Dream, arXiv:2508.15487.) What is reported is the bound
of `masked` with full attention, at any time.
"""

from dataclasses import dataclass, replace
from typing import Literal

import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import Batch, Canvas, Claim, Models, Output
from dlm.nn.visibility.full import Full
from dlm.objectives.base import is_over
from dlm.objectives.masked import Masked


@dataclass(frozen=True)
class Adapted(Masked):
    """Predicts with the shift of an autoregressive model, within a reach that grows."""

    # 1: token i is predicted at position i − 1.
    shift: Literal[0, 1] = 1
    # Share of the updates until everything is visible; 0: from the start.
    reach_warmup: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.reach_warmup <= 1:
            raise ValueError(f"reach_warmup={self.reach_warmup} must be in [0, 1]")

    @property
    def visibility(self) -> Full:
        """Everything is visible, to a shifted output."""
        return Full("output" if self.shift else "none")

    @property
    def loss_claims(self) -> Claim:
        """A limited reach is another model than the one that is reported."""
        return "heuristic" if self.reach_warmup else super().loss_claims

    def read(
        self,
        models: Models,
        batch: Batch,
        z_BL: Array,
        t_BL: Array,
    ) -> Output:
        """Returns the network's output within the present reach."""
        return models.student(
            Canvas.of(batch, z_BL, t_BL, self._visibility_at(models, batch))
        )

    def _visibility_at(self, models: Models, batch: Batch) -> Full:
        # After the warm-up, and for what is reported, everything is visible.
        if is_over(self.reach_warmup, models.progress):
            return self.visibility
        # The same reach for every row.
        rows, length = batch.tokens_BL.shape
        reach = jnp.floor(length * models.progress / self.reach_warmup).astype(
            jnp.int32
        )
        return replace(self.visibility, reach_B1=jnp.full((rows, 1), reach))
