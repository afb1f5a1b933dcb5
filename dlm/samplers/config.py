"""How a canvas is filled: which rule, in how many steps, how many positions at a time, how sharply. No JAX here."""

from dataclasses import dataclass
from typing import Any

from dlm.run.spec import member


@dataclass(frozen=True)
class Sampler:
    rule: Any = member("samplers", "ancestral")
    steps: int = 64  # denoising steps per block
    block: int = 0  # positions decided together, left to right; 0: the whole canvas
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self):
        if not hasattr(self.rule, "step"):
            raise ValueError(f"rule={type(self.rule).__module__.removeprefix('dlm.')} is not a sampling rule, such as samplers.ancestral")
        if self.steps < 1 or self.block < 0:
            raise ValueError(f"steps={self.steps} must be positive and block={self.block} not negative")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"temperature={self.temperature} must not be negative and top_p={self.top_p} must be in (0, 1]")
