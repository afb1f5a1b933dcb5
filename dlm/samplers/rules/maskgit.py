"""The top-k schedule of MaskGIT (arXiv:2202.04200, section 3.2): few positions at first, many at last, the order shaken by noise.

share of masks left at time s   sin(π s/2), or another of the noise schedules
order                           log p(drawn token) + choice_noise · s · Gumbel noise
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.config import member
from dlm.core.contracts import Canvas
from dlm.noise.schedules.cosine import Cosine
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class MaskGIT(Rule):
    schedule: Any = member("noise.schedules", Cosine())  # share of masks left at a time
    choice_noise: float = 4.5  # of the order; 0 is surest first

    claims: ClassVar = "no law: the order depends on the confidence"
    order_randomness: ClassVar = (
        "picks positions by the tokens that it draws, and shakes their order"
    )

    def __post_init__(self):
        if not 0 <= self.choice_noise <= 1e6:
            raise ValueError(f"choice_noise={self.choice_noise} must not be negative")

    def step(self, key_B, output, canvas: Canvas, view: StepView, state):
        which_B, order_B = jnp.unstack(jax.vmap(jax.random.split)(key_B), axis=1)
        drawn_BL = output.prediction.sample(which_B)
        noise_BL = -jnp.log(
            -jnp.log(jnp.clip(keys.uniform_BL(order_B, drawn_BL.shape[1]), 1e-12, 1 - 1e-7))
        )
        sure_BL = (
            output.prediction.log_prob(drawn_BL) + self.choice_noise * view.s_B[:, None] * noise_BL
        )

        def left(t_B):
            return self.schedule.noised(t_B)

        revealed_BL = view.first(view.masked(canvas), sure_BL, left(view.t_B), left(view.s_B))
        return replace(canvas, z_BL=jnp.where(revealed_BL, drawn_BL, canvas.z_BL)), state
