"""How often a run is logged, evaluated and saved. No JAX here."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Intervals:
    """How often, in updates; 0 is never. The last update is always logged and saved."""

    log: int = 20  # every save also ends a row
    eval: int = 0
    save: int = 1000
    keep: int = 2  # newest checkpoints that stay
    on_save_failure: Literal["stop", "continue"] = (
        "stop"  # after a checkpoint that failed
    )

    def __post_init__(self):
        is_positive = self.log >= 1 and self.keep >= 1
        is_possible = self.eval >= 0 and self.save >= 0
        if not (is_positive and is_possible):
            raise ValueError(
                "log and keep must be at least 1; eval and save must not be negative"
            )
