"""Lowest-confidence remasking as in LLaDA (arXiv:2502.09992, algorithm 5): draw everywhere, keep the surest, mask the rest again.

Each step keeps ⌈masked · (t − s)/t⌉ positions, so that every step of a block keeps equally many and the last keeps all. The
confidence is the probability of the drawn token at temperature 1: a temperature for drawing never changes the order. The law is
not p, whatever the number of steps: surest-first is a bet on accuracy, and loses where neighbours are strongly correlated.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax.numpy as jnp

from dlm.run.contracts import Canvas
from dlm.samplers import rounds


@dataclass(frozen=True)
class Confident:
    confidence: Literal["drawn", "top", "margin", "entropy"] = "drawn"

    claims: ClassVar = "no law: the order depends on the confidence"
    masks_only: ClassVar = True  # what is no mask is never changed

    def init(self, canvas: Canvas):
        return ()

    @property
    def chance(self) -> str | None:
        """How positions depend on what is drawn, if they do."""
        if self.confidence != "drawn":
            return None
        return "picks positions by the tokens that it draws; with confidence='top', 'margin' or 'entropy' it does not"

    def positions(self, prediction, canvas: Canvas, masked_BL, t_B, s_B):
        """The masked positions whose prediction is surest, whatever is drawn."""
        return rounds.first(masked_BL, prediction.confidence(self.confidence), t_B, s_B)

    def step(self, key_B, output, canvas: Canvas, active_BL, t_B, s_B, state, process):
        """The canvas with the surest of the active masked positions revealed."""
        masked_BL = active_BL & (canvas.z_BL == process.vocab.mask)
        drawn_BL = output.prediction.draw(key_B)
        if self.confidence == "drawn":
            revealed_BL = rounds.first(masked_BL, output.prediction.log_prob(drawn_BL), t_B, s_B)
        else:
            revealed_BL = self.positions(output.prediction, canvas, masked_BL, t_B, s_B)
        return replace(canvas, z_BL=jnp.where(revealed_BL, drawn_BL, canvas.z_BL)), state
