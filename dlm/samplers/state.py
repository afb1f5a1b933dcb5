"""The changing part of a pass over a canvas, in the loop of `drivers.blockwise`.

Shapes: B rows, L positions.
"""

from typing import Any

from jax import Array

from dlm.core.contracts import Cache, Canvas, Sampled, Trace
from dlm.core.pytree import pytree


@pytree
class State:
    """The changing part of a pass over a canvas."""

    step: Array  # over all blocks: block · plan.steps + step in the block
    canvas: Canvas
    cache: Cache | None
    rule_state: Any
    log_prob_BL: Array  # of each token when it was decided
    changed_BL: Array  # where the last step changed the text
    settled_B: Array  # rows that need no further step in this block
    ended_B: Array  # rows that need no further step at all
    age: Array  # passes since the last one over all that the cache holds
    nfe: Array
    trace: Trace | None

    @property
    def finished_B(self) -> Array:
        """Rows that need no further step in this block."""
        return self.settled_B | self.ended_B

    def sampled(self) -> Sampled:
        """Returns the canvas, and how it was filled."""
        return Sampled(self.canvas, self.log_prob_BL, self.nfe, self.trace)
