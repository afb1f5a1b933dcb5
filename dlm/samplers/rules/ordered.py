"""Positions in a fixed order: left to right, right to left, shuffled, or given with the canvas.

Each step reveals ⌈masked · (t − s)/t⌉ positions at once, each sampled from its own prediction. With
one position a step the law is exactly Π_k p(x_σ(k) | x_σ(1), …, x_σ(k−1)), which is p where the
network's conditionals are. With several they are treated as independent. Source: ours.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core.errors import UserError
from dlm.core.named import Seed
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Ordered(Rule):
    """The next positions of an order."""

    # given: by the layout's block_BL.
    order: Literal["left_to_right", "right_to_left", "shuffled", "given"] = (
        "left_to_right"
    )
    seed: Seed = Seed(0)  # of the shuffled order

    claims: ClassVar[str] = "law → p with one position a step"

    @property
    def fixed_order(self) -> str | None:
        """The name of the order."""
        return self.order

    def choose(self, prediction, view: StepView):
        """Returns the next positions."""
        del prediction
        rank_BR = jnp.broadcast_to(self._rank(view), view.canvas.z_BL.shape)
        score_BR = -rank_BR.astype(jnp.float32)
        return view.first(view.undecided(), score_BR, tie=0.0)

    def _rank(self, view: StepView) -> Array:
        """Returns numbers, lower first, [B or 1, R]."""
        layout = view.canvas.layout
        if self.order == "given":
            if layout.block_BL is None:
                raise UserError(
                    "sampler.rule.order='given' needs an order with each text: use "
                    "left_to_right, right_to_left or shuffled"
                )
            return layout.block_BL
        index_BR = layout.index_BL
        assert index_BR is not None, "the layout of a view is complete"
        if self.order == "shuffled":
            # A number for each position, whatever else is in the row.
            root = jax.random.key(self.seed)
            uniform = jax.vmap(jax.vmap(jax.random.uniform))
            return uniform(_per_position(root, index_BR))
        sign = 1 if self.order == "left_to_right" else -1
        return index_BR * sign


def _per_position(root: Array, index_BR: Array) -> Array:
    """Returns a key for each position of each row."""
    per_row = jax.vmap(jax.random.fold_in, (None, 0))
    return jax.vmap(per_row, (None, 0))(root, index_BR)
