"""The K best of all experts (arXiv:1701.06538).

    capacity C = ⌈factor · K · T / E⌉ tokens of each device for every expert, in their order

With a capacity an expert takes at most C tokens, and the later ones are dropped (GShard,
arXiv:2006.16668). Without, nothing is dropped, and the busiest device decides how long a layer
takes.
"""

from dataclasses import dataclass

from dlm.nn.routers.base import Competing, TokenChoice, largest


@dataclass(frozen=True)
class TopK(TokenChoice):
    capacity: float = 0.0  # the factor; 0: nothing is dropped

    def __post_init__(self):
        super().__post_init__()
        if self.capacity < 0:
            raise ValueError(f"capacity={self.capacity} must not be negative")

    @property
    def competing(self) -> Competing:
        """With a capacity, earlier tokens go first."""
        return "batch" if self.capacity else "never"

    def pick(self, select_TE, active: int):
        return largest(select_TE, active)
