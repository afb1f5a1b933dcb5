"""The schedule of MaskGIT (arXiv:2202.04200, section 3.2): few positions at first, many at last.

share of masks left at time s   sin(π s/2), or another noise schedule
order                           log p(sampled token) + choice_noise · s · Gumbel noise
"""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp

from dlm.core import keys
from dlm.core.config import member
from dlm.noise.schedules.cosine import Cosine
from dlm.samplers import row_keys
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class MaskGIT(Rule):
    """The most probable samples, in an order with noise."""

    schedule: Any = member("noise.schedules", Cosine())  # share of masks left at a time
    choice_noise: float = 4.5  # noise of the order; 0 is most confident first

    claims: ClassVar[str] = "no law: the order depends on the confidence"
    order_randomness: ClassVar[str | None] = (
        "picks positions by the tokens that it draws, and shakes their order"
    )

    def __post_init__(self):
        if not 0 <= self.choice_noise <= 1e6:
            raise ValueError(f"choice_noise={self.choice_noise} must not be negative")

    def step(self, key_B, output, view: StepView, state):
        """Returns the tokens at time s."""
        which_B, order_B = row_keys.split(key_B, 2)
        drawn_BR = output.prediction.sample(which_B)
        # Gumbel noise that shrinks with time.
        u_BR = keys.uniform_BL(order_B, drawn_BR.shape[1])
        u_BR = jnp.clip(u_BR, 1e-12, 1 - 1e-7)
        noise_BR = -jnp.log(-jnp.log(u_BR))
        log_BR = output.prediction.log_prob(drawn_BR)
        score_BR = log_BR + self.choice_noise * view.s_B[:, None] * noise_BR
        # The schedule's times instead of uniform ones.
        t_B = self.schedule.noised(view.t_B)
        s_B = self.schedule.noised(view.s_B)
        curved = replace(view, t_B=t_B, s_B=s_B)
        revealed_BR = curved.first(view.undecided(), score_BR)
        return jnp.where(revealed_BR, drawn_BR, view.canvas.z_BL), state
