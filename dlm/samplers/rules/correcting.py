"""Self-correction of finished text (GIDD, arXiv:2503.04482, algorithm 2).

Each step samples a token at every position, and writes the most probable ones that differ from the
text. For networks that were trained on wrong tokens (hybrid or uniform noise,
`objectives.proseco`), as a second pass, `sampler.next_pass`. A row is finished when no sampled
token differs, or after all steps.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp

from dlm.core.contracts import StopsWhen
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Correcting(Rule):
    """The most probable samples that differ from the text."""

    tokens: int = 1  # replaced in a step

    claims: ClassVar[str] = "no law: it moves towards the mode"
    order_randomness: ClassVar[str | None] = "replaces tokens that it has drawn"
    needs_final: ClassVar[bool] = False
    edits_tokens: ClassVar[bool] = True
    always_progresses: ClassVar[bool] = False
    stops_when: ClassVar[StopsWhen] = "unchanged"

    def __post_init__(self):
        if not 1 <= self.tokens <= 2**20:
            raise ValueError(f"tokens={self.tokens} must be at least 1")

    def step(self, key_B, output, view: StepView, state):
        """Returns the tokens at time s."""
        z_BR = view.canvas.z_BL
        drawn_BR = output.prediction.sample(key_B)
        log_BR = output.prediction.log_prob(drawn_BR)
        differs_BR = view.active_BR & (drawn_BR != z_BR)
        rank_BR = positions.ranks(jnp.where(differs_BR, log_BR, -jnp.inf))
        written_BR = differs_BR & (rank_BR < self.tokens)
        # As a first pass it leaves no mask.
        masks_BR = view.active_BR & (z_BR == view.process.vocab.mask)
        written_BR |= masks_BR & (view.s_B[:, None] == 0)
        return jnp.where(written_BR, drawn_BR, z_BR), state
