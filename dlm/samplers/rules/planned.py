"""Path planning: keep the best tokens, old or new, and mask the rest (P2, arXiv:2502.03540).

    x̂ ~ p(· | z) at the masks;   keep the ⌈(1 − s) n⌉ of n positions with the highest scores
    score: log p(x̂_i | z) at a mask, self_trust · log p(z_i | z) at a token

(Algorithm 1, self-planning.) With self_trust 0 a token is never given up (its score is 0), with
larger ones more are masked again. The network was never trained to estimate the probability of
tokens that it sees, except by an objective such as `objectives.proseco`. Of scores that are equal
to 1e-5 the left is kept.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dlm.core.contracts import StopsWhen
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Planned(Rule):
    """The best tokens, of the text and of the samples."""

    self_trust: float = 1.0

    claims: ClassVar[str] = "no law: the order depends on the confidence"
    edits_tokens: ClassVar[bool] = True
    always_progresses: ClassVar[bool] = False
    order_randomness: ClassVar[str | None] = (
        "picks positions by the tokens that it draws, and masks them again"
    )
    stops_when: ClassVar[StopsWhen] = "out_of_steps"

    def __post_init__(self):
        if not 0 <= self.self_trust <= 1e6:
            raise ValueError(f"self_trust={self.self_trust} must not be negative")

    def step(self, key_B, output, view: StepView, state):
        """Returns the tokens at time s."""
        old_BR = view.canvas.z_BL
        undecided_BR = view.undecided()
        filled_BR = jnp.where(undecided_BR, output.prediction.sample(key_B), old_BR)
        log_BR = output.prediction.log_prob(filled_BR)
        # 0 · −∞ is not a number.
        trusted_BR = self.self_trust * log_BR if self.self_trust else 0.0
        score_BR = jnp.where(undecided_BR, log_BR, trusted_BR)
        # Keep ⌈(1 − s) n⌉ of the n active positions.
        n_B = view.active_BR.sum(1)
        keep_B = n_B - jnp.floor(n_B * view.s_B + 1e-3)
        rank_BR = positions.ranks(jnp.where(view.active_BR, score_BR, -jnp.inf))
        best_BR = rank_BR < keep_B[:, None]
        z_BR = jnp.where(best_BR, filled_BR, view.process.vocab.mask)
        return jnp.where(view.active_BR, z_BR, old_BR), state
