"""The input of every sampling rule, and the default step: choose positions, sample tokens there.

    rule.step(key_B, output, view, state) → (z_BR, state)

A rule sees only the R positions of the window, whatever the length of the canvas. A rule whose
positions depend on the prediction and not on sampled tokens defines `choose`, and has an exact
likelihood (`evals.exact`). The `order_randomness` of any other says why it has none.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import Canvas, Output, Prediction, Process, StopsWhen
from dlm.nn.visibility import is_autoregressive
from dlm.samplers import positions


@dataclass(frozen=True)
class StepView:
    """A step from time t to s, at the R positions of its window."""

    canvas: Canvas  # the window; its layout is complete
    process: Process
    active_BR: Array  # bool, positions that may change
    t_B: Array
    s_B: Array
    log_prob_BR: Array  # of each token when it was decided
    sigma_BR: Array | float = 0.0  # probability with which a token becomes a mask
    remasked_BR: Array | None = None  # bool, tokens that become masks in this step

    def undecided(self) -> Array:
        """Returns the active positions that are still to be filled, bool_BR."""
        canvas = self.canvas
        return self.active_BR & self.process.undecided(canvas.z_BL, canvas.layout)

    def decided(self) -> Array:
        """Returns the active positions that have a token, bool_BR."""
        canvas = self.canvas
        return self.active_BR & ~self.process.undecided(canvas.z_BL, canvas.layout)

    def first(
        self, undecided_BR: Array, score_BR: Array, tie: float = positions.TIE
    ) -> Array:
        """Returns the positions with the highest scores, bool_BR.

        They are the share (t − s)/t of each row's, at least one, and one more for each token that
        becomes a mask. Scores within `tie` are equal, and the left one comes first
        (`positions.ranks`); 0 is for scores that were not computed by a network.
        """
        more_B = 0 if self.remasked_BR is None else self.remasked_BR.sum(1)
        return positions.first(undecided_BR, score_BR, self.t_B, self.s_B, more_B, tie)


class Rule:
    """The base of all rules; a subclass is a frozen dataclass."""

    claims: ClassVar[str]
    needs_final: ClassVar[bool] = True
    needs_schedule: ClassVar[bool] = False
    edits_tokens: ClassVar[bool] = False
    always_progresses: ClassVar[bool] = True
    stops_when: ClassVar[StopsWhen] = "decided"

    @property
    def fixed_order(self) -> str | None:
        """The name of the order of positions, where the rule has one that is fixed."""
        return None

    @property
    def order_randomness(self) -> str | None:
        """How the positions depend on sampled tokens; None: they do not."""
        return None

    def init(self, canvas: Canvas) -> Any:
        """Returns the rule's state before the first step, one entry for each row."""
        del canvas
        return ()

    def time(self, state: Any, t_B: Array, process: Process) -> Array:
        """Returns the time that the network is given."""
        del state, process
        return t_B

    def choose(self, prediction: Prediction, view: StepView) -> Array:
        """Returns the positions to decide, bool_BR, whatever is sampled there."""
        raise TypeError(f"{type(self).__name__} chooses no positions before it samples")

    def step(
        self, key_B: Array, output: Output, view: StepView, state: Any
    ) -> tuple[Array, Any]:
        """Returns the tokens at time s; at s = 0 all active positions are decided."""
        chosen_BR = self.choose(output.prediction, view)
        return positions.reveal(
            key_B, output.prediction, view.canvas.z_BL, chosen_BR
        ), state


# -------------------------------------------------------------------------------- what is given


def anchors(canvas: Canvas) -> Array:
    """Returns the anchors, bool_BL, without padding.

    They differ by place and not by id, since an end of text may have the id of padding. Padding is
    segment 0. The rows of a causal model have no segments, and only padding after their last hole.
    """
    segments_BL = canvas.layout.segments_BL
    if segments_BL is not None:
        return canvas.frozen_BL & (segments_BL > 0)
    if not is_autoregressive(canvas.visibility):
        return canvas.frozen_BL
    # Padding has no hole after it.
    reversed_BL = canvas.frozen_BL[:, ::-1]
    holes_BL = jnp.cumsum(~reversed_BL, 1)[:, ::-1]
    return canvas.frozen_BL & (holes_BL > 0)


def last(where_BL: Array) -> Array:
    """Returns the last such position of each row, −1 where there is none."""
    i_L = jnp.arange(where_BL.shape[1])
    return jnp.where(where_BL, i_L, -1).max(1)
