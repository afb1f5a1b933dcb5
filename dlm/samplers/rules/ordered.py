"""Positions in an order that is fixed beforehand: from left to right, from right to left, shuffled, or given with the canvas.

Each step reveals ⌈masked · (t − s)/t⌉ positions at once, each drawn from its own prediction. With one position a step the law is exactly
Π_k p(x_σ(k) | x_σ(1), …, x_σ(k−1)), which is p where the network's conditionals are; with several they are taken to be independent.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas
from dlm.core.errors import UserError
from dlm.core.named import Seed
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Ordered(Rule):
    order: Literal["left_to_right", "right_to_left", "shuffled", "given"] = (
        "left_to_right"  # given: by the layout's block_BL
    )
    seed: Seed = 0  # of the shuffled order

    claims: ClassVar = "law → p with one position a step"

    def positions(self, prediction, canvas: Canvas, view: StepView):
        if self.order == "given":
            if canvas.layout.block_BL is None:
                raise UserError(
                    "sampler.rule.order='given' needs an order with each text: use left_to_right, right_to_left or shuffled"
                )
            rank_BL = canvas.layout.block_BL
        elif self.order == "shuffled":  # a position's rank does not depend on what else there is
            keys = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (None, 0))(
                jax.random.key(self.seed), view.row_index_BL
            )
            rank_BL = jax.vmap(jax.vmap(jax.random.uniform))(keys)
        else:
            rank_BL = view.row_index_BL * (1 if self.order == "left_to_right" else -1)
        score_BL = -jnp.broadcast_to(rank_BL, canvas.z_BL.shape).astype(jnp.float32)
        return view.first(view.masked(canvas), score_BL, tie=0.0)
