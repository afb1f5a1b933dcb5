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
        if not hasattr(
            view.process, "reveal_prob"
        ):  # noise on tokens, or a schedule for each of them
            return self._changed(key_B, output, canvas, view), state
        whether_B, which_B = jnp.unstack(jax.vmap(jax.random.split)(key_B), axis=1)
        t_B1, s_B1 = view.t_B[:, None], view.s_B[:, None]
        p_noised_B1 = jnp.maximum(view.process.mask_prob(t_B1), 1e-30)
        order_randomness_BL = (
            view.process.reveal_prob(t_B1, s_B1) + view.sigma_BL * (1 - p_noised_B1) / p_noised_B1
        )
        revealed_BL = view.masked(canvas) & (
            keys.uniform_BL(whether_B, canvas.z_BL.shape[1]) < order_randomness_BL
        )
        return replace(
            canvas, z_BL=positions.reveal(which_B, output.prediction, canvas.z_BL, revealed_BL)
        ), state

    def _changed(self, key_B, output, canvas: Canvas, view: StepView) -> Canvas:
        probs_BLV = view.process.reverse(
            output.prediction.tempered(), canvas.z_BL, view.t_B, view.s_B
        )
        here_BLV = jax.nn.one_hot(canvas.z_BL, probs_BLV.shape[-1], dtype=bool)
        others_BLV, stays_BL = (
            jnp.where(here_BLV, 0.0, probs_BLV),
            jnp.where(here_BLV, probs_BLV, 0.0).sum(-1),
        )
        whether_B, which_B = jnp.unstack(jax.vmap(jax.random.split)(key_B), axis=1)
        u_BL = keys.uniform_BL(whether_B, canvas.z_BL.shape[1])
        moves_BL = view.active_BL & (
            (u_BL < others_BLV.sum(-1)) | (stays_BL == 0)
        )  # a float32 sum of 1 may lie below u
        return replace(
            canvas,
            z_BL=jnp.where(moves_BL, keys.categorical(which_B, jnp.log(others_BLV)), canvas.z_BL),
        )
