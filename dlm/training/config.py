"""The config of the optimizer. No JAX here."""

from dataclasses import dataclass, field
from typing import Literal

from dlm.core.config import free


@dataclass(frozen=True)
class Skip:
    """When an update is left out: its loss or gradient is not finite, or (option) too large."""

    norm: float = 0.0  # largest gradient norm that counts (optax.skip_large_updates); 0: any finite
    limit: int = free(10)  # updates left out in a row after which the run stops

    def __post_init__(self):
        if self.norm < 0 or self.limit < 1:
            values = f"norm={self.norm} must not be negative and limit={self.limit} at least 1"
            raise ValueError(values)


@dataclass(frozen=True)
class Average:
    """Averaged parameters for evaluation and sampling: after each update e ← d e + (1 − d) p.

    A number in place of this section is its `decay`. With the ramp d is
    min(decay, (1 + n)/(10 + n)) after n updates, as in TensorFlow's ExponentialMovingAverage.
    Without it the average still contains a share decay^n of the initial parameters: 13 % after
    2,000 updates at 0.999.
    """

    decay: float = 0.0  # 0: no average, the parameters themselves
    warmup: Literal["ramp", "none"] = "ramp"

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay={self.decay} must be in [0, 1)")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, its schedule, and what happens around each update."""

    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3  # peak, of AdamW
    muon_lr: float = 0.02  # peak, of Muon's matrices
    # After the warm-up the rate falls to 0 at the last update, unless it is constant.
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup: int = 100  # updates of linear warm-up
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.1  # of matrices only, times the learning rate
    clip: float = 1.0  # largest global gradient norm; 0: no clipping
    ema: Average = field(default=Average(), metadata=dict(number="decay"))
    microbatches: int = (
        1  # gradients of this many parts of the batch are summed before an update
    )
    skip: Skip = Skip()

    def __post_init__(self):
        if min(self.lr, self.muon_lr) <= 0:
            raise ValueError("lr and muon_lr must be positive")
        if min(self.warmup, self.weight_decay, self.clip) < 0:
            raise ValueError("warmup, weight_decay and clip must not be negative")
        if not all(0 <= b < 1 for b in (self.b1, self.b2)):
            raise ValueError(f"b1={self.b1} and b2={self.b2} must be in [0, 1)")
        if self.microbatches < 1:
            raise ValueError(f"microbatches={self.microbatches} must be at least 1")
