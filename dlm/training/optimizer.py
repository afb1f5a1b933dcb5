"""Optimizers: AdamW, or Muon for the matrices (momentum orthogonalised by Newton–Schulz) with AdamW for the
rest (Optax gives it Nesterov's momentum too).

Which parameters are matrices, and which are decayed, is read off their names by `core.axes`.
"""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from dlm.core import axes
from dlm.core.config import free


@dataclass(frozen=True)
class Skip:
    """When an update is left out: its loss or gradient is not finite, or (option) its gradient is too large."""

    norm: float = 0.0  # largest global gradient norm of an update that counts, as optax.skip_large_updates has it; 0: any finite one
    limit: int = free(10)  # updates left out in a row after which the run stops

    def __post_init__(self):
        if self.norm < 0 or self.limit < 1:
            raise ValueError(
                f"norm={self.norm} must not be negative and limit={self.limit} at least 1"
            )


@dataclass(frozen=True)
class Average:
    """Averaged parameters, which evaluation and sampling use: after each update e ← d e + (1 − d) p. A number is its `decay`.

    With the ramp d is min(decay, (1 + n)/(10 + n)) after n updates, as in TensorFlow's ExponentialMovingAverage: the initial parameters, of
    which decay^n is left without it (13 % after 2,000 updates at 0.999), are soon forgotten.
    """

    decay: float = 0.0  # 0: no average, the parameters themselves
    warmup: Literal["ramp", "none"] = "ramp"

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay={self.decay} must be in [0, 1)")

    def after(self, updates: jax.Array) -> float | jax.Array:
        """d, once so many updates are in the average."""
        return (
            self.decay
            if self.warmup == "none"
            else jnp.minimum(self.decay, (1 + updates) / (10 + updates))
        )


@dataclass(frozen=True)
class Optim:
    kind: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3  # peak, of AdamW
    muon_lr: float = 0.02  # peak, of Muon's matrices
    schedule: Literal["constant", "linear", "cosine"] = (
        "cosine"  # after the warm-up, down to 0 at the last update
    )
    warmup: int = 100  # updates of linear warm-up
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.1  # of matrices only, times the learning rate
    clip: float = 1.0  # largest global gradient norm; 0: no clipping
    ema: Average = field(default=Average(), metadata=dict(number="decay"))
    microbatches: int = 1  # gradients of this many parts of the batch are summed before an update
    skip: Skip = Skip()

    def __post_init__(self):
        if min(self.lr, self.muon_lr) <= 0 or min(self.warmup, self.weight_decay, self.clip) < 0:
            raise ValueError(
                "lr and muon_lr must be positive; warmup, weight_decay and clip must not be negative"
            )
        if not all(0 <= b < 1 for b in (self.b1, self.b2)):
            raise ValueError(f"b1={self.b1} and b2={self.b2} must be in [0, 1)")
        if self.microbatches < 1:
            raise ValueError(f"microbatches={self.microbatches} must be at least 1")


def rate(o: Optim, steps: int):
    """The learning-rate schedule as a multiple of the peak: step → [0, 1]."""
    warmup = min(o.warmup, steps // 2)
    rest = max(steps - warmup, 1)
    after = {
        "constant": optax.constant_schedule(1.0),
        "linear": optax.linear_schedule(1.0, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(1.0, rest),
    }[o.schedule]
    return optax.join_schedules(
        [optax.linear_schedule(1 / max(warmup, 1), 1.0, warmup), after], [warmup]
    )


def transformation(o: Optim, steps: int) -> optax.GradientTransformation:
    """Clip the global norm, then AdamW or Muon under the schedule."""
    schedule = rate(o, steps)

    def peak(lr):
        return lambda step: lr * schedule(step)

    if o.kind == "adamw":
        update = optax.adamw(peak(o.lr), o.b1, o.b2, weight_decay=o.weight_decay, mask=_decayed)
    else:
        update = optax.contrib.muon(
            peak(o.muon_lr),
            beta=0.95,
            weight_decay=o.weight_decay,
            weight_decay_mask=_decayed,
            adam_b1=o.b1,
            adam_b2=o.b2,
            adam_learning_rate=peak(o.lr),
            muon_weight_dimension_numbers=_matrices,
        )
    return optax.chain(optax.clip_by_global_norm(o.clip), update) if o.clip else update


def _decayed(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: axes.decayed(axes.name_of(path)), params
    )


def _matrices(params):
    """Which axes a matrix maps from and to; each layer and expert is orthogonalised by itself. Reads on the left, writes on the right."""

    def dimensions(path, leaf):
        name = axes.name_of(path)
        if not axes.decayed(name):
            return None
        letters = axes.suffix(name).removeprefix("E")  # each expert has matrices of its own
        first = leaf.ndim - len(letters)
        split = len(letters) - 1 if letters[-1] == "D" else 1
        numbers = tuple(range(first, leaf.ndim))
        return optax.contrib.MuonDimensionNumbers(numbers[:split], numbers[split:])

    return jax.tree_util.tree_map_with_path(dimensions, params)
