"""Self-correction of finished text (GIDD, arXiv:2503.04482, algorithm 2): draw everywhere, put the surest token that differs, repeat.

For networks that were trained on wrong tokens (hybrid or uniform noise, `objectives.proseco`); as a second pass, `sampler.next_pass`. A row
is done when nothing differs, or after all steps.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp

from dlm.core.contracts import Canvas
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Correcting(Rule):
    tokens: int = 1  # replaced in a step

    claims: ClassVar = "no law: it moves towards the mode"
    order_randomness: ClassVar = "replaces tokens that it has drawn"
    absorbing: ClassVar = False
    edits_tokens: ClassVar = True
    always_progresses: ClassVar = False
    ends: ClassVar = "unchanged"

    def __post_init__(self):
        if not 1 <= self.tokens <= 2**20:
            raise ValueError(f"tokens={self.tokens} must be at least 1")

    def step(self, key_B, output, canvas: Canvas, view: StepView, state):
        drawn_BL = output.prediction.sample(key_B)
        gain_BL = output.prediction.log_prob(drawn_BL)
        better_BL = view.active_BL & (drawn_BL != canvas.z_BL)
        surest_BL = better_BL & (
            positions.ranks(jnp.where(better_BL, gain_BL, -jnp.inf)) < self.tokens
        )
        surest_BL |= view.masked(canvas) & (
            view.s_B[:, None] == 0
        )  # as a first pass it leaves no mask
        return replace(canvas, z_BL=jnp.where(surest_BL, drawn_BL, canvas.z_BL)), state
