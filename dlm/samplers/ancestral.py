"""Ancestral sampling: draw z_s from the reverse process with the network's prediction in the place of x (arXiv:2406.07524, eq. 7).

A masked position is revealed with probability (α_s − α_t)/(1 − α_t), each on its own, and then drawn from its prediction.
Whether and which are two draws: one draw over V + 1 outcomes loses rare events to float32 noise.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.run import keys
from dlm.run.contracts import Canvas
from dlm.samplers import rounds


@dataclass(frozen=True)
class Ancestral:
    claims: ClassVar = "law → p as 1/steps"

    def init(self, canvas: Canvas):
        return ()

    def step(self, key_B, output, canvas: Canvas, active_BL, t_B, s_B, state, process):
        """The canvas at time s. Only active masked positions may change; at s = 0 all of them are revealed."""
        masked_BL = active_BL & (canvas.z_BL == process.vocab.mask)
        whether_B, which_B = jnp.unstack(jax.vmap(jax.random.split)(key_B), axis=1)
        u_BL = keys.uniform_BL(whether_B, masked_BL.shape[1])
        revealed_BL = masked_BL & (u_BL < process.reveal_prob(t_B, s_B)[:, None])

        def draw(z_BL, position_BR, valid_BR, n):
            key_B = jax.vmap(jax.random.fold_in, (0, None))(which_B, n)
            drawn_BR = output.prediction.at(position_BR).draw(key_B)
            return rounds.put(z_BL, position_BR, jnp.where(valid_BR, drawn_BR, rounds.take(z_BL, position_BR)))

        return replace(canvas, z_BL=rounds.over(revealed_BL, draw, canvas.z_BL)), state
