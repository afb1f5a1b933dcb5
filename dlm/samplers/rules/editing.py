"""Tokens are revealed where the network is sure, and replaced where it is sure of another (LLaDA2.1, arXiv:2602.08676, section 3).

    mask → token      where the largest probability is at least `above`, and at the surest mask
    token → token     where another token than the one that stands there has at least `edit`

A row is done when it has no masks and nothing was edited, or after all steps. What a network says of a token that it sees is worth
something only if it was trained to correct tokens (`objectives.proseco`).
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp

from dlm.core.contracts import Canvas
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Editing(Rule):
    above: float = 0.7
    edit: float = 0.9

    claims: ClassVar = "no law: the order depends on the confidence"
    order_randomness: ClassVar = "replaces tokens that it has drawn"
    edits_tokens: ClassVar = True
    ends: ClassVar = "unchanged"

    def __post_init__(self):
        if not (0 <= self.above <= 1 and 0 <= self.edit <= 1):
            raise ValueError(f"above={self.above} and edit={self.edit} must be in [0, 1]")

    def step(self, key_B, output, canvas: Canvas, view: StepView, state):
        masked_BL, sure_BL = view.masked(canvas), output.prediction.confidence("top")
        best_BL = output.prediction.argmax()
        revealed_BL = masked_BL & (
            positions.reaches(sure_BL, self.above) | view.first(masked_BL, sure_BL)
        )
        edited_BL = (
            view.active_BL
            & ~masked_BL
            & (best_BL != canvas.z_BL)
            & positions.reaches(sure_BL, self.edit)
        )
        z_BL = positions.reveal(key_B, output.prediction, canvas.z_BL, revealed_BL)
        return replace(canvas, z_BL=jnp.where(edited_BL, best_BL, z_BL)), state
