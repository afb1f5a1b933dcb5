"""σ = min(η, σ_max) (ReMDM-cap, arXiv:2503.00307, section 4.1)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from dlm.samplers.remask.base import Remask, largest


@dataclass(frozen=True)
class Cap(Remask):
    """The largest σ, up to a bound."""

    eta: float = 0.02

    marginals: ClassVar[Literal["kept", "changed"]] = "kept"

    def __post_init__(self):
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta={self.eta} must be in [0, 1]")

    def sigma(self, output, view):
        """Returns σ, [B, 1]."""
        return jnp.minimum(self.eta, largest(view))
