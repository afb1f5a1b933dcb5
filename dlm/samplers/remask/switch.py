"""No remasking before the switch, then σ = min(η, σ_max) or η σ_max.

(ReMDM-switch, arXiv:2503.00307, section 4.2.)
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from dlm.samplers.remask.base import Remask, largest


@dataclass(frozen=True)
class Switch(Remask):
    """σ of `cap` or `rescale`, from a time on."""

    eta: float = 0.02
    begin: float = 0.55  # time of the switch
    strategy: Literal["cap", "rescale"] = "cap"

    marginals: ClassVar[Literal["kept", "changed"]] = "kept"

    def __post_init__(self):
        if not (0 <= self.eta <= 1 and 0 < self.begin <= 1):
            raise ValueError(
                f"eta={self.eta} must be in [0, 1] and begin={self.begin} in (0, 1]"
            )

    def sigma(self, output, view):
        """Returns σ, [B, 1]."""
        if self.strategy == "cap":
            sigma_B1 = jnp.minimum(self.eta, largest(view))
        else:
            sigma_B1 = self.eta * largest(view)
        return jnp.where(view.t_B[:, None] <= self.begin, sigma_B1, 0.0)
