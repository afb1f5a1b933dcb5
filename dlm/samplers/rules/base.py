"""What every rule of a sampler is told, and what it does unless it says otherwise: reveal the positions that it picks.

    rule.step(key_B, output, canvas, now, state) → (canvas, state)

A rule sees the positions of its pass alone (R of L), whatever the length of the canvas. One that picks positions by what the network says
and not by what is drawn has `positions`, and with it an exact likelihood (`evals.exact`); of another, `chance` tells why it has none.
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas
from dlm.nn.visibility import is_autoregressive
from dlm.samplers import positions


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepView:
    """A step from time t to s, as a rule sees it."""

    process: Any
    active_BL: jax.Array  # bool, what may change
    t_B: jax.Array
    s_B: jax.Array
    logprob_BL: jax.Array  # log-probability of each generated token when it was committed
    sigma_BL: Any = 0.0  # probability with which what is no mask becomes one in this step
    remasked_BL: Any = False  # what becomes one
    row_index_BL: Any = None  # where each position stands in the row

    def masked(self, canvas: Canvas) -> jax.Array:
        """The masks that may be revealed, bool_BL."""
        return self.active_BL & (canvas.z_BL == self.process.vocab.mask)

    def first(
        self,
        masked_BL: jax.Array,
        score_BL: jax.Array,
        t_B=None,
        s_B=None,
        tie: float = positions.TIE,
    ) -> jax.Array:
        """bool_BL: the share (t − s)/t of each row's masks, those with the highest scores, and one more for each that comes back.

        Scores within `tie` are equal, and the left one goes first (`positions.ranks`); 0 is for scores that no network gave.
        """
        t_B, s_B = (self.t_B, self.s_B) if t_B is None else (t_B, s_B)
        remasked_B = 0 if self.remasked_BL is False else self.remasked_BL.sum(1)
        return positions.first(masked_BL, score_BL, t_B, s_B, remasked_B, tie)


def anchors(canvas: Canvas) -> jax.Array:
    """What is given, bool_BL; padding is not. It is told from an anchor by its place, since an end of text may have the same id.

    Padding is segment 0. The rows of a causal model have no segments, and nothing but padding after their last hole.
    """
    if canvas.layout.segments_BL is not None:
        return canvas.frozen_BL & (canvas.layout.segments_BL > 0)
    if not is_autoregressive(canvas.visibility):
        return canvas.frozen_BL
    return canvas.frozen_BL & (jnp.cumsum(~canvas.frozen_BL[:, ::-1], 1)[:, ::-1] > 0)


def last(where_BL: jax.Array) -> jax.Array:
    """The last such position of each row, −1 where there is none."""
    return jnp.where(where_BL, jnp.arange(where_BL.shape[1]), -1).max(1)


class Rule:
    """The base of all rules; a subclass is a frozen dataclass."""

    claims: ClassVar[str]
    absorbing: ClassVar[bool] = True  # needs noise that leaves masks, and nothing else
    edits_tokens: ClassVar[bool] = False  # changes tokens that stand, where noise leaves masks
    order_randomness: ClassVar[str | None] = (
        None  # how positions depend on what is drawn, if they do
    )
    always_progresses: ClassVar[bool] = True  # at least one mask is revealed in every step
    ends: ClassVar[Literal["unmasked", "unchanged", "late"]] = (
        "unmasked"  # a row is done without masks; and unchanged; or in time only
    )

    def init(self, canvas: Canvas) -> Any:
        """What the rule remembers from step to step, for each row."""
        return ()

    def positions(self, prediction, canvas: Canvas, view: StepView) -> jax.Array:
        """Which masks are revealed, bool_BL, whatever is drawn there."""
        raise TypeError(f"{type(self).__name__} picks no positions beforehand")

    def time(self, state, t_B, process):
        """The time that the network is told."""
        return t_B

    def step(self, key_B, output, canvas: Canvas, view: StepView, state) -> tuple[Canvas, Any]:
        """The canvas at time s. Only active positions may change; at s = 0 no mask is left."""
        revealed_BL = self.positions(output.prediction, canvas, view)
        return replace(
            canvas, z_BL=positions.reveal(key_B, output.prediction, canvas.z_BL, revealed_BL)
        ), state
