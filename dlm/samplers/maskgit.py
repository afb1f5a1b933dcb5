"""The top-k schedule of MaskGIT (arXiv:2202.04200, section 3.2): few positions at first, many at last, the order shaken by noise.

share of masks left at time s   sin(π s/2), or another of the noise schedules
order                           log p(drawn token) + shake · s · Gumbel noise
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from dlm.core import keys
from dlm.core.contracts import Canvas
from dlm.noise import schedules
from dlm.samplers.rule import Rule, StepView


@dataclass(frozen=True)
class MaskGIT(Rule):
    schedule: Literal["cosine", "linear", "polynomial"] = "cosine"
    power: float = 2.0  # of the polynomial schedule
    shake: float = 4.5  # of the order; 0 is surest first

    claims: ClassVar = "no law: the order depends on the confidence"
    order_randomness: ClassVar = (
        "picks positions by the tokens that it draws, and shakes their order"
    )

    def __post_init__(self):
        if not (0 <= self.shake <= 1e6 and schedules.STEEPEST <= self.power <= schedules.FLATTEST):
            raise ValueError(
                f"shake={self.shake} must not be negative and power={self.power} from {schedules.STEEPEST} to {schedules.FLATTEST}"
            )

    def step(self, key_B, output, canvas: Canvas, view: StepView, state):
        which_B, order_B = jnp.unstack(jax.vmap(jax.random.split)(key_B), axis=1)
        drawn_BL = output.prediction.draw(which_B)
        noise_BL = -jnp.log(
            -jnp.log(jnp.clip(keys.uniform_BL(order_B, drawn_BL.shape[1]), 1e-12, 1 - 1e-7))
        )
        sure_BL = output.prediction.log_prob(drawn_BL) + self.shake * view.s_B[:, None] * noise_BL

        def left(t_B):
            return schedules.mask_prob(self.schedule, self.power, t_B)

        revealed_BL = view.first(view.masked(canvas), sure_BL, left(view.t_B), left(view.s_B))
        return replace(canvas, z_BL=jnp.where(revealed_BL, drawn_BL, canvas.z_BL)), state
