"""Every position with enough confidence, at once (Fast-dLLM, arXiv:2505.22618, section 3.3).

    reveal {i : c_i ≥ above} ∪ {the most confident}      c: the confidence; ≥ but for 1e-5

A step is never slower than the schedule: the ⌈masked · (t − s)/t⌉ most confident positions are
revealed in any case, so `steps` is the largest number of passes in a block. With as many steps as
positions that is one, the published rule. Where the text is easy, few passes suffice.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Threshold(Rule):
    """All positions above a confidence."""

    above: float = 0.9
    confidence: Literal["top", "margin"] = "top"  # the largest probability, or its lead

    claims: ClassVar[str] = "no law: the order depends on the confidence"

    def __post_init__(self):
        if not 0 <= self.above <= 1:
            raise ValueError(f"above={self.above} must be in [0, 1]")

    def choose(self, prediction, view: StepView):
        """Returns the positions above the threshold, and those of the schedule."""
        undecided_BR = view.undecided()
        score_BR = prediction.confidence(self.confidence)
        confident_BR = positions.reaches(score_BR, self.above)
        return undecided_BR & (confident_BR | view.first(undecided_BR, score_BR))
