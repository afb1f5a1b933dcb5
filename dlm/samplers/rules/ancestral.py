"""Ancestral sampling: draw z_s from the reverse process with the network's prediction in the place of x (arXiv:2406.07524, eq. 7).

A masked position is revealed with probability (α_s − α_t)/(1 − α_t), each on its own, and then drawn from its prediction; where a token
may become a mask again with probability σ, with (α_s − (1 − σ) α_t)/(1 − α_t) (ReMDM, 2503.00307, eq. 4). Under noise that changes
tokens into others every position may change, to what the process's reverse says. Whether and which are two draws: one draw
over all outcomes loses rare events to float32 noise.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Canvas
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Ancestral(Rule):
    claims: ClassVar = "law → p as 1/steps"
    absorbing: ClassVar = False
    always_progresses: ClassVar = False
    order_randomness: ClassVar = "reveals positions at random"

    def step(self, key_B, output, canvas: Canvas, view: StepView, state):
        """Returns the tokens at time s."""
        whether_B, which_B = jnp.unstack(jax.vmap(jax.random.split)(key_B), axis=1)
        u_BL = keys.uniform_BL(whether_B, canvas.z_BL.shape[1])
        prediction, z_BL = output.prediction, canvas.z_BL
        step = view.process.reverse(prediction, z_BL, view.t_B, view.s_B, view.sigma_BL)
        changes_BL = view.active_BL & (u_BL < step.change_BL)
        if view.process.final and view.process.schedule is not None:
            # Only the positions revealed need a draw.
            z_BL = positions.reveal(which_B, prediction, z_BL, changes_BL)
        else:
            z_BL = jnp.where(changes_BL, step.tokens.sample(which_B), z_BL)
        return replace(canvas, z_BL=z_BL), state
