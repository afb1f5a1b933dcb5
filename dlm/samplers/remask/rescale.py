"""σ = η σ_max (ReMDM-rescale, arXiv:2503.00307, section 4.1)."""

from dataclasses import dataclass
from typing import ClassVar

from dlm.samplers.remask.base import Remask, largest


@dataclass(frozen=True)
class Rescale(Remask):
    eta: float = 0.04

    marginals: ClassVar = "kept"

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must be in [0, 1]")

    def rate(self, output, canvas, view, alpha_t_B1, alpha_s_B1):
        return self.eta * largest(alpha_t_B1, alpha_s_B1)
