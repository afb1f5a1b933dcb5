"""Expert choice: each expert picks its C best tokens of a row (arXiv:2202.09368).

An expert's load is fixed, and a token gets as many experts as pick it. For diffusion models only:
a choice among all positions of a row looks ahead.

    C = n K / E · (1 + slope · (1 − 2 r))    n real tokens, r the share of them that is masked

With a slope, rows with few masks, where a token costs most, get more capacity, and the mean over
r ~ U(0, 1) stays n K / E: capacity that falls with the mask ratio (EC-DLM, arXiv:2604.01622).
The choice is made within each row, so a row does not depend on its batch.
"""

import math
from dataclasses import dataclass
from typing import Literal

from dlm.nn.routers.base import Router


@dataclass(frozen=True)
class Choice(Router):
    """Each expert takes its best tokens of a row."""

    slope: float = 0.0

    @property
    def competing(self) -> Literal["row"]:
        """An expert chooses among all tokens of a row."""
        return "row"

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.slope <= 1:
            raise ValueError(f"slope={self.slope} must be in [0, 1]")

    def room(self, length: int, experts: int, active: int) -> int:
        """Returns the largest number of tokens of a row that an expert can take."""
        even = length * active / experts
        return min(length, math.ceil(even * (1 + self.slope)))

    def choose(self, select_BLE, valid_BL, ratio_B, active: int):
        """Returns the tokens of a row that each expert takes, [B, E, C], and whether there are."""
        import jax
        import jax.numpy as jnp

        B, L, E = select_BLE.shape
        C = self.room(L, E, active)
        # Padding is never chosen before a token.
        select_BEL = select_BLE.swapaxes(1, 2)
        select_BEL = jnp.where(valid_BL[:, None], select_BEL, -jnp.inf)
        _, places_BEC = jax.lax.top_k(select_BEL, C)
        n_B = valid_BL.sum(1)
        more_B = 1 + self.slope * (1 - 2 * ratio_B)
        # float32 makes 3 of 3.0000002
        room_B = jnp.ceil(n_B * active / E * more_B - 1e-4)
        room_B1 = jnp.minimum(room_B, n_B)[:, None]
        taken_BC = jnp.arange(C) < room_B1
        return places_BEC, jnp.broadcast_to(taken_BC[:, None], places_BEC.shape)
