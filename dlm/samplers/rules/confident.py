"""Surest first, as in LLaDA (arXiv:2502.09992, algorithm 5): each step reveals the positions of which the network is surest.

Each step reveals ⌈masked · (t − s)/t⌉ positions, so that every step of a block reveals equally many and the last all that are left. The
confidence is the probability of the drawn token at temperature 1 (a temperature for drawing never changes the order), the largest
probability, its lead over the second (arXiv:2502.06768) or minus the entropy. The law is not p, whatever the number of steps:
surest-first is a bet on accuracy, and loses where neighbours are strongly correlated. Equal to 1e-5, the left position goes first.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax.numpy as jnp

from dlm.core.contracts import Canvas
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Confident(Rule):
    confidence: Literal["drawn", "top", "margin", "entropy"] = "drawn"

    claims: ClassVar = "no law: the order depends on the confidence"

    @property
    def order_randomness(self) -> str | None:
        if self.confidence != "drawn":
            return None
        return "picks positions by the tokens that it draws; with confidence='top', 'margin' or 'entropy' it does not"

    def positions(self, prediction, canvas: Canvas, view: StepView):
        return view.first(view.masked(canvas), prediction.confidence(self.confidence))

    def step(self, key_B, output, canvas: Canvas, view: StepView, state):
        if self.confidence != "drawn":
            return super().step(key_B, output, canvas, view, state)
        drawn_BL = output.prediction.sample(key_B)
        revealed_BL = view.first(view.masked(canvas), output.prediction.log_prob(drawn_BL))
        return replace(canvas, z_BL=jnp.where(revealed_BL, drawn_BL, canvas.z_BL)), state
