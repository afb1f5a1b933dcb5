"""Ancestral sampling: draw z_s from the reverse process with the network's prediction in the place of x (arXiv:2406.07524, eq. 7).

A masked position is revealed with probability (α_s − α_t)/(1 − α_t), each on its own, and then drawn from its prediction. Under noise that
changes tokens into others every position may change, to what the process's reverse says. Whether and which are two draws: one draw
over all outcomes loses rare events to float32 noise.
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
    masks_only: ClassVar = False
    chance: ClassVar = "reveals positions at random"

    def init(self, canvas: Canvas):
        return ()

    def step(self, key_B, output, canvas: Canvas, active_BL, t_B, s_B, state, process):
        """The canvas at time s. Only active positions may change; at s = 0 no mask is left."""
        if not hasattr(process, "reveal_prob"):  # noise on tokens, or a schedule for each of them
            return self._changed(key_B, output, canvas, active_BL, t_B, s_B, process), state
        masked_BL = active_BL & (canvas.z_BL == process.vocab.mask)
        whether_B, which_B = jnp.unstack(jax.vmap(jax.random.split)(key_B), axis=1)
        u_BL = keys.uniform_BL(whether_B, masked_BL.shape[1])
        revealed_BL = masked_BL & (u_BL < process.reveal_prob(t_B, s_B)[:, None])

        def draw(z_BL, position_BR, valid_BR, n):
            key_B = jax.vmap(jax.random.fold_in, (0, None))(which_B, n)
            drawn_BR = output.prediction.at(position_BR).draw(key_B)
            return rounds.put(z_BL, position_BR, jnp.where(valid_BR, drawn_BR, rounds.take(z_BL, position_BR)))

        return replace(canvas, z_BL=rounds.over(revealed_BL, draw, canvas.z_BL)), state

    def _changed(self, key_B, output, canvas: Canvas, active_BL, t_B, s_B, process) -> Canvas:
        probs_BLV = process.reverse(output.prediction.tempered(), canvas.z_BL, t_B, s_B)
        here_BLV = jax.nn.one_hot(canvas.z_BL, probs_BLV.shape[-1], dtype=bool)
        others_BLV, stays_BL = jnp.where(here_BLV, 0.0, probs_BLV), jnp.where(here_BLV, probs_BLV, 0.0).sum(-1)
        whether_B, which_B = jnp.unstack(jax.vmap(jax.random.split)(key_B), axis=1)
        u_BL = keys.uniform_BL(whether_B, canvas.z_BL.shape[1])
        moves_BL = active_BL & ((u_BL < others_BLV.sum(-1)) | (stays_BL == 0))  # a float32 sum of 1 may lie below u
        return replace(canvas, z_BL=jnp.where(moves_BL, keys.categorical(which_B, jnp.log(others_BLV)), canvas.z_BL))
