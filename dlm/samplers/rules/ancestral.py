"""Ancestral sampling: draw z_s from the reverse process, with the prediction instead of x.

Each masked position is revealed independently, with probability (α_s − α_t)/(1 − α_t), and its
token is then sampled from the prediction (MDLM, arXiv:2406.07524, eq. 7). Where a token may become
a mask again with probability σ, it is (α_s − (1 − σ) α_t)/(1 − α_t) (ReMDM, arXiv:2503.00307,
eq. 4). Under noise that turns tokens into others every position may change, as the reverse of the
process says. Whether a position changes and its new token are two draws: one draw over all
outcomes loses rare events to float32 rounding.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dlm.core import keys
from dlm.samplers import positions, row_keys
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Ancestral(Rule):
    """The reverse of the process, in steps."""

    claims: ClassVar[str] = "law → p as 1/steps"
    needs_final: ClassVar[bool] = False
    always_progresses: ClassVar[bool] = False
    order_randomness: ClassVar[str | None] = "reveals positions at random"

    def step(self, key_B, output, view: StepView, state):
        """Returns the tokens at time s."""
        whether_B, which_B = row_keys.split(key_B, 2)
        canvas = view.canvas
        process = view.process
        prediction = output.prediction
        u_BR = keys.uniform_BL(whether_B, canvas.z_BL.shape[1])
        shared = process.final and process.schedule is not None
        if not shared:
            prediction = prediction.tempered()
        times = view.t_B, view.s_B
        step = process.reverse(prediction, canvas.z_BL, *times, view.sigma_BR)
        changes_BR = view.active_BR & (u_BR < step.change_BL)
        # With one schedule for all tokens, only the positions revealed need a sample.
        if shared:
            z_BR = positions.reveal(which_B, prediction, canvas.z_BL, changes_BR)
        else:
            z_BR = jnp.where(changes_BR, step.tokens.sample(which_B), canvas.z_BL)
        return z_BR, state
