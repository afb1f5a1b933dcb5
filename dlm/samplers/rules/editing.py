"""Masks become tokens, and tokens others, where confidence is high (LLaDA2.1, arXiv:2602.08676).

    mask → token      where the largest probability is at least `above`, and at the most confident
    token → token     where another token than the present one has probability `edit` or more

(Section 3.) A row is finished when it has no masks and no token was replaced, or after all steps.
The prediction at a token that the network sees is reliable only if the network was trained to
correct tokens (`objectives.proseco`).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dlm.core.contracts import StopsWhen
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Editing(Rule):
    """Thresholds for masks, and for tokens."""

    above: float = 0.7  # probability at which a mask is revealed
    edit: float = 0.9  # probability at which a token is replaced

    claims: ClassVar[str] = "no law: the order depends on the confidence"
    order_randomness: ClassVar[str | None] = "replaces tokens that it has drawn"
    edits_tokens: ClassVar[bool] = True
    stops_when: ClassVar[StopsWhen] = "unchanged"

    def __post_init__(self):
        if not (0 <= self.above <= 1 and 0 <= self.edit <= 1):
            raise ValueError(
                f"above={self.above} and edit={self.edit} must be in [0, 1]"
            )

    def step(self, key_B, output, view: StepView, state):
        """Returns the tokens at time s."""
        prediction = output.prediction
        old_BR = view.canvas.z_BL
        undecided_BR = view.undecided()
        top_BR = prediction.confidence("top")
        confident_BR = positions.reaches(top_BR, self.above)
        revealed_BR = undecided_BR & (confident_BR | view.first(undecided_BR, top_BR))
        best_BR = prediction.argmax()
        edited_BR = (
            view.decided() & (best_BR != old_BR) & positions.reaches(top_BR, self.edit)
        )
        z_BR = positions.reveal(key_B, prediction, old_BR, revealed_BR)
        return jnp.where(edited_BR, best_BR, z_BR), state
