"""Every position of which the network is sure enough, at once (Fast-dLLM, arXiv:2505.22618, section 3.3).

    reveal {i : c_i ≥ above} ∪ {the surest}          c: the confidence, by default the largest probability; ≥ but for 1e-5

A step is never slower than the schedule: the ⌈masked · (t − s)/t⌉ surest positions are revealed in any case, so `steps` is the largest
number of passes in a block. With as many steps as positions that is one, the published rule. Where the text is easy, few passes do.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dlm.core.contracts import Canvas
from dlm.samplers import positions
from dlm.samplers.rules.base import Rule, StepView


@dataclass(frozen=True)
class Threshold(Rule):
    above: float = 0.9
    confidence: Literal["top", "margin"] = "top"

    claims: ClassVar = "no law: the order depends on the confidence"

    def __post_init__(self):
        if not 0 <= self.above <= 1:
            raise ValueError(f"above={self.above} must be in [0, 1]")

    def positions(self, prediction, canvas: Canvas, view: StepView):
        sure_BL, masked_BL = prediction.confidence(self.confidence), view.masked(canvas)
        return masked_BL & (positions.reaches(sure_BL, self.above) | view.first(masked_BL, sure_BL))
