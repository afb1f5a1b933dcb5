"""Path planning (P2, arXiv:2502.03540, algorithm 1): in each step keep the best of what was and of what would be revealed, mask the rest.

    x̂ ~ p(· | z) at the masks;   keep the ⌈(1 − s) n⌉ of n positions with the highest scores, and mask all others
    score: log p(x̂_i | z) at a mask, self_trust · log p(z_i | z) at a token          (self-planning: the network judges its own tokens)

With self_trust 0 a token is never given up (its score is 0), with larger ones more are masked again. The network was never trained to judge
tokens that it sees, unless its objective asked for it (`objectives.proseco`). Of scores that are equal to 1e-5 the left is kept.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp

from dlm.core.contracts import Canvas
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Planned(Rule):
    self_trust: float = 1.0

    claims: ClassVar = "no law: the order depends on the confidence"
    edits_tokens: ClassVar = True
    always_progresses: ClassVar = False
    order_randomness: ClassVar = "picks positions by the tokens that it draws, and masks them again"
    ends: ClassVar = "late"

    def __post_init__(self):
        if not 0 <= self.self_trust <= 1e6:
            raise ValueError(f"self_trust={self.self_trust} must not be negative")

    def step(self, key_B, output, canvas: Canvas, view: StepView, state):
        masked_BL = view.masked(canvas)
        filled_BL = jnp.where(masked_BL, output.prediction.sample(key_B), canvas.z_BL)
        log_BL = output.prediction.log_prob(filled_BL)
        score_BL = jnp.where(
            masked_BL, log_BL, 0.0 if self.self_trust == 0 else self.self_trust * log_BL
        )
        n_B = view.active_BL.sum(1)
        keep_B = n_B - jnp.floor(n_B * view.s_B + 1e-3)
        kept_BL = positions.ranks(jnp.where(view.active_BL, score_BL, -jnp.inf)) < keep_B[:, None]
        z_BL = jnp.where(kept_BL, filled_BL, view.process.vocab.mask)
        return replace(canvas, z_BL=jnp.where(view.active_BL, z_BL, canvas.z_BL)), state
