"""One position at a time at the moment when the reverse process would hit it (first-hitting sampler, arXiv:2409.02908, section 4).

    τ ← the largest of n uniform numbers below τ,  τ · u^(1/n)            n: masks that are left;   a random one of them is revealed

The law is that of ancestral sampling with infinitely many steps, in one pass for each token. With fewer steps than positions
⌈n (t − s)/t⌉ are revealed at once, and τ is the smallest of as many hits. The network is told τ.
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
class FirstHitting(Rule):
    claims: ClassVar = "law → p with one position a step"
    order_randomness: ClassVar = "reveals positions at random"

    def init(self, canvas: Canvas):
        """1 − α of the last hit."""
        return jnp.ones(canvas.z_BL.shape[0])

    def time(self, state, t_B, process):
        return process.schedule.time_of(state)

    def step(self, key_B, output, canvas: Canvas, view: StepView, state):
        hit_B, order_B, which_B = jnp.unstack(
            jax.vmap(lambda k: jax.random.split(k, 3))(key_B), axis=1
        )
        masked_BL = view.masked(canvas)
        revealed_BL = view.first(masked_BL, keys.uniform_BL(order_B, masked_BL.shape[1]), tie=0.0)
        n_B, k_B = masked_BL.sum(1), revealed_BL.sum(1)
        fell_B = jax.vmap(jax.random.beta)(
            hit_B, jnp.maximum(n_B - k_B + 1, 1.0), jnp.maximum(k_B, 1.0)
        )  # the k-th largest of n
        state = jnp.where(k_B > 0, state * fell_B, state)
        return replace(
            canvas, z_BL=positions.reveal(which_B, output.prediction, canvas.z_BL, revealed_BL)
        ), state
