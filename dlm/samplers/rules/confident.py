"""Most confident positions first, as in LLaDA (arXiv:2502.09992, algorithm 5).

Each step reveals ⌈masked · (t − s)/t⌉ positions, so that every step of a block reveals equally
many, and the last step all that are left. The confidence is

    drawn     the probability of the sampled token at temperature 1
    top       the largest probability
    margin    its lead over the second (arXiv:2502.06768)
    entropy   minus the entropy

A temperature for sampling never changes the order. The law is not p, whatever the number of steps:
this order is a bet on accuracy, and loses where neighbours are strongly correlated. Scores equal
to 1e-5 are a tie, in which the left position comes first.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Confident(Rule):
    """The positions of highest confidence."""

    confidence: Literal["drawn", "top", "margin", "entropy"] = "drawn"

    claims: ClassVar[str] = "no law: the order depends on the confidence"

    @property
    def order_randomness(self) -> str | None:
        """Why there is no exact likelihood."""
        if self.confidence != "drawn":
            return None
        others = "with confidence='top', 'margin' or 'entropy' it does not"
        return f"picks positions by the tokens that it draws; {others}"

    def choose(self, prediction, view: StepView):
        """Returns the most confident of the masks."""
        return view.first(view.undecided(), prediction.confidence(self.confidence))

    def step(self, key_B, output, view: StepView, state):
        """Returns the tokens at time s."""
        if self.confidence != "drawn":
            return super().step(key_B, output, view, state)
        drawn_BR = output.prediction.sample(key_B)
        revealed_BR = view.first(view.undecided(), output.prediction.log_prob(drawn_BR))
        return jnp.where(revealed_BR, drawn_BR, view.canvas.z_BL), state
