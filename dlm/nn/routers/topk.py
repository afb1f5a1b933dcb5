"""The K best of all experts (arXiv:1701.06538). With a capacity an expert takes so many tokens at most, and those after them are dropped.

    capacity C = ⌈factor · K · T / E⌉ tokens of each device for every expert, in the order of the tokens (GShard, arXiv:2006.16668)

Without a capacity nothing is dropped, and the busiest device decides how long a layer takes.
"""

from dataclasses import dataclass

from dlm.nn.routers import TokenChoice, largest


@dataclass(frozen=True)
class TopK(TokenChoice):
    capacity: float = 0.0  # the factor; 0: nothing is dropped

    def __post_init__(self):
        super().__post_init__()
        if self.capacity < 0:
            raise ValueError(f"capacity={self.capacity} must not be negative")

    @property
    def competing(self) -> str:
        return "batch" if self.capacity else "never"

    def pick(self, select_TE, active: int):
        return largest(select_TE, active)
