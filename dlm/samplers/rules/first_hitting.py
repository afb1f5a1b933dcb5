"""One position at a time, when the reverse process would reveal it (arXiv:2409.02908, section 4).

    τ ← the largest of n uniform numbers below τ,  τ · u^(1/n)          n: masks that are left

A random one of the masks is revealed (first-hitting sampler). The law is that of ancestral sampling
with infinitely many steps, in one pass for each token. With fewer steps than positions
⌈n (t − s)/t⌉ are revealed at once, and τ is the smallest of as many hits. The network is given τ.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Canvas
from dlm.samplers import positions, row_keys
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class FirstHitting(Rule):
    """Random positions, at the times of the reverse process."""

    claims: ClassVar[str] = "law → p with one position a step"
    order_randomness: ClassVar[str | None] = "reveals positions at random"
    needs_schedule: ClassVar[bool] = True

    def init(self, canvas: Canvas):
        """Returns 1 − α of the last hit, for each row."""
        return jnp.ones(canvas.z_BL.shape[0])

    def time(self, state, t_B, process):
        """Returns the time of the last hit."""
        return process.schedule.time_of(state)

    def step(self, key_B, output, view: StepView, state):
        """Returns the tokens at time s, and the time of the last hit."""
        hit_B, order_B, which_B = row_keys.split(key_B, 3)
        undecided_BR = view.undecided()
        u_BR = keys.uniform_BL(order_B, undecided_BR.shape[1])
        revealed_BR = view.first(undecided_BR, u_BR, tie=0.0)
        # The k-th largest of n uniform numbers has a beta law.
        n_B = undecided_BR.sum(1)
        k_B = revealed_BR.sum(1)
        above_B = jnp.maximum(n_B - k_B + 1, 1.0)
        at_least_one_B = jnp.maximum(k_B, 1.0)
        shrunk_B = jax.vmap(jax.random.beta)(hit_B, above_B, at_least_one_B)
        state = jnp.where(k_B > 0, state * shrunk_B, state)
        z_BR = positions.reveal(
            which_B, output.prediction, view.canvas.z_BL, revealed_BR
        )
        return z_BR, state
