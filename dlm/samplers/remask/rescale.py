"""σ = η σ_max (ReMDM-rescale, arXiv:2503.00307, section 4.1)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from dlm.samplers.remask.base import Remask, largest


@dataclass(frozen=True)
class Rescale(Remask):
    """A share of the largest σ."""

    eta: float = 0.04

    marginals: ClassVar[Literal["kept", "changed"]] = "kept"

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must be in [0, 1]")

    def sigma(self, output, view):
        """Returns σ, [B, 1]."""
        return self.eta * largest(view)
