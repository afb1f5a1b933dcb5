"""Optimizers: AdamW, or Muon for the matrices with AdamW for all other parameters.

Muon orthogonalises the momentum by Newton–Schulz iterations; Optax adds Nesterov's momentum.
`core.axes` reads from a parameter's name whether it is a matrix, and whether it is decayed.
"""

import jax
import optax

from dlm.core import axes
from dlm.training.config import OptimizerConfig


def rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Build the learning-rate schedule as a multiple of the peak: step → [0, 1]."""
    # In a short run the warm-up takes at most half of the updates.
    warmup = min(config.warmup, steps // 2)
    rest = max(steps - warmup, 1)
    match config.schedule:
        case "constant":
            after = optax.constant_schedule(1.0)
        case "linear":
            after = optax.linear_schedule(1.0, 0.0, rest)
        case "cosine":
            after = optax.cosine_decay_schedule(1.0, rest)
    rise = optax.linear_schedule(1 / max(warmup, 1), 1.0, warmup)
    return optax.join_schedules([rise, after], [warmup])


def transformation(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Build the optimizer: clip the global norm, then AdamW or Muon under the schedule."""
    schedule = rate(config, steps)

    def scheduled(peak: float) -> optax.Schedule:
        return lambda step: peak * schedule(step)

    if config.kind == "adamw":
        update = optax.adamw(
            scheduled(config.lr),
            config.b1,
            config.b2,
            weight_decay=config.weight_decay,
            mask=_decayed,
        )
    else:
        update = optax.contrib.muon(
            scheduled(config.muon_lr),
            beta=0.95,
            weight_decay=config.weight_decay,
            weight_decay_mask=_decayed,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_learning_rate=scheduled(config.lr),
            muon_weight_dimension_numbers=_matrices,
        )
    if not config.clip:
        return update
    return optax.chain(optax.clip_by_global_norm(config.clip), update)


def _decayed(params):
    def is_decayed(path, _):
        return axes.decayed(axes.name_of(path))

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def _matrices(params):
    """Return for each matrix the axes that it maps from and to; None for other parameters.

    Each layer and each expert has matrices of its own. The input axes are on the left.
    """

    def dimensions(path, leaf):
        name = axes.name_of(path)
        if not axes.decayed(name):
            return None
        letters = axes.suffix(name).removeprefix("E")
        # A stack of layers has axes before those that the name lists.
        first = leaf.ndim - len(letters)
        split = len(letters) - 1 if letters[-1] == "D" else 1
        numbers = tuple(range(first, leaf.ndim))
        return optax.contrib.MuonDimensionNumbers(numbers[:split], numbers[split:])

    return jax.tree_util.tree_map_with_path(dimensions, params)
