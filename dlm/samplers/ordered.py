"""Positions in an order that is fixed beforehand: from left to right, from right to left, shuffled, or given with the canvas.

Each step reveals ⌈masked · (t − s)/t⌉ positions at once, each drawn from its own prediction. With one position a step the law is exactly
Π_k p(x_σ(k) | x_σ(1), …, x_σ(k−1)), which is p where the network's conditionals are; with several they are taken to be independent.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.run.contracts import Canvas
from dlm.run.spec import UserError
from dlm.samplers import rounds


@dataclass(frozen=True)
class Ordered:
    order: Literal["left_to_right", "right_to_left", "shuffled", "given"] = "left_to_right"  # given: by fields['order_BL']
    seed: int = 0  # of the shuffled order

    claims: ClassVar = "law → p with one position a step"
    masks_only: ClassVar = True
    chance: ClassVar = None  # how positions depend on what is drawn, if they do

    def init(self, canvas: Canvas):
        return ()

    def positions(self, prediction, canvas: Canvas, masked_BL, t_B, s_B):
        """The next masked positions in the order."""
        L = masked_BL.shape[1]
        if self.order == "given":
            if "order_BL" not in canvas.fields:
                raise UserError("sampler.rule.order='given' needs an order with each text: use left_to_right, right_to_left or shuffled")
            rank_BL = canvas.fields["order_BL"]
        elif self.order == "shuffled":
            rank_BL = jax.random.uniform(jax.random.key(self.seed), (L,))[None]  # the order of a prefix does not depend on what follows
        else:
            rank_BL = jnp.arange(L)[None] * (1 if self.order == "left_to_right" else -1)
        return rounds.first(masked_BL, -rank_BL.astype(jnp.float32), t_B, s_B)

    def step(self, key_B, output, canvas: Canvas, active_BL, t_B, s_B, state, process):
        """The canvas with the next positions revealed."""
        masked_BL = active_BL & (canvas.z_BL == process.vocab.mask)
        revealed_BL = self.positions(output.prediction, canvas, masked_BL, t_B, s_B)
        return replace(canvas, z_BL=jnp.where(revealed_BL, output.prediction.draw(key_B), canvas.z_BL)), state
