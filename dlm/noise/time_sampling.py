"""How the times of a batch are drawn; no kind changes the mean of a loss.

    iid           u_b                       independent
    stratified    (π(b) + u_b)/B            one in each B-th of [0, 1), in a random order
    antithetic    u, 1 − u, u', 1 − u', …   neighbours b = 2j, 2j + 1 mirror each other
    importance    F⁻¹(stratified)           density p ∝ √E[cost² | t]; the cost is divided by it

Strata are over the global batch. The costs of `importance` are running means over buckets of t
(arXiv:2102.09672, section 3.3).

A sample may consist of parts (blocks) with times of their own. Stratified ones are shifted from
part to part by the golden ratio, so that they are spread within a sample as well. A sample's
number and the step determine its times, whatever batch, host or microbatch it is in.

Shapes: B samples, P parts of each, T buckets of time.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import Batch

Kind = Literal["stratified", "iid", "antithetic", "importance"]
BUCKETS = 32
_UNIFORM_SHARE = 0.1  # of the times of `importance`
_DECAY = 0.95  # of the running means, per update
_GOLDEN = 0.6180339887


def draw(
    kind: str,
    batch: Batch,
    key: Array,
    statistics: Array | None = None,
    part_BL: Array | None = None,
) -> tuple[Array, Array]:
    """Returns (u_BL, density_BL): times in [0, 1), and the density with which they are drawn.

    Args:
      kind: one of `Kind`.
      batch: gives the global sample numbers.
      key: the step's key.
      statistics: running mean squares of the costs, [T]; for `importance`.
      part_BL: number of the part that each position belongs to; None: one time for the row.
    """
    index_B = batch.index_B
    B, L = batch.tokens_BL.shape
    number_B = index_B
    # Of an antithetic pair both neighbours use the same number.
    if kind == "antithetic":
        number_B = index_B // 2
    key_B = keys.per_sample(keys.key(key, "time"), number_B)
    parts = 1 if part_BL is None else L
    u_BP = keys.uniform_BL(key_B, parts)
    if kind == "antithetic":
        even_B1 = index_B[:, None] % 2 == 0
        u_BP = jnp.where(even_B1, u_BP, 1 - u_BP)
    # Each sample has a stratum of its own, in an order that changes with the step.
    if kind in ("stratified", "importance"):
        order_key = keys.key(key, "strata")
        order_B = jax.random.permutation(order_key, batch.total)
        place_B = index_B % batch.total
        stratum_B1 = order_B[place_B][:, None]
        shift_P = jnp.arange(parts) * _GOLDEN
        spread_BP = (stratum_B1 + u_BP) / batch.total
        u_BP = (spread_BP + shift_P) % 1
    # More times where costs were large; the density corrects for it.
    density_BP = jnp.ones((B, 1))
    if kind == "importance":
        if statistics is None:
            statistics = initial_costs()
        u_BP, density_BP = importance_times(u_BP, statistics[None])
    # From parts to positions.
    if part_BL is not None:
        u_BP = jnp.take_along_axis(u_BP, part_BL, 1)
    u_BL = jnp.broadcast_to(u_BP, (B, L))
    return u_BL, jnp.broadcast_to(density_BP, (B, L))


def initial_costs() -> Array:
    """Returns the mean square of the costs in each bucket before the first update; 0 for none."""
    return jnp.zeros(BUCKETS)


def importance_times(
    u_BP: Array,
    square_BT: Array,
) -> tuple[Array, Array]:
    """Returns (t_BP, density_BP): uniform numbers moved to where costs were large."""
    # A bucket without costs counts like the mean of the others.
    has_cost_BT = square_BT > 0
    known_B1 = has_cost_BT.sum(1, keepdims=True)
    sum_B1 = square_BT.sum(1, keepdims=True)
    mean_B1 = sum_B1 / jnp.maximum(known_B1, 1)
    mean_B1 = jnp.where(mean_B1 > 0, mean_B1, 1.0)
    filled_BT = jnp.where(has_cost_BT, square_BT, mean_B1)
    # The density: in proportion to the costs, with a share of uniform times.
    size_BT = jnp.sqrt(filled_BT)
    total_B1 = size_BT.sum(1, keepdims=True)
    costly_BT = (1 - _UNIFORM_SHARE) * size_BT / total_B1
    p_BT = costly_BT + _UNIFORM_SHARE / BUCKETS

    # The inverse of the piecewise linear distribution function.
    ends_BT = jnp.cumsum(p_BT, 1)
    passed_BPT = u_BP[:, :, None] >= ends_BT[:, None, :]
    bucket_BP = jnp.minimum(passed_BPT.sum(-1), BUCKETS - 1)
    p_BP = jnp.take_along_axis(p_BT, bucket_BP, 1)
    end_BP = jnp.take_along_axis(ends_BT, bucket_BP, 1)
    inside_BP = (u_BP - end_BP + p_BP) / p_BP
    inside_BP = jnp.clip(inside_BP, 0, 1 - 1e-6)
    t_BP = (bucket_BP + inside_BP) / BUCKETS
    return t_BP, p_BP * BUCKETS


def bucket_costs(
    t_B: Array,
    cost_B: Array,
) -> Array:
    """Returns the sums of squares and the numbers of samples in each bucket, [2, T].

    They add up over microbatches and hosts.
    """
    # Time 1 belongs to the last bucket.
    bucket_B = (t_B * BUCKETS).astype(int)
    bucket_B = jnp.clip(bucket_B, 0, BUCKETS - 1)
    one_BT = jax.nn.one_hot(bucket_B, BUCKETS)
    square_sum_T = jnp.square(cost_B) @ one_BT
    return jnp.stack([square_sum_T, one_BT.sum(0)])


def updated_costs(
    square_T: Array,
    sums_2T: Array,
) -> Array:
    """Returns the running means after an update."""
    # A mean over what this update saw of each bucket.
    square_sum_T, count_T = sums_2T
    mean_T = square_sum_T / jnp.maximum(count_T, 1)
    running_T = _DECAY * square_T + (1 - _DECAY) * mean_T
    # The first costs of a bucket replace the 0 that stands for none.
    running_T = jnp.where(square_T == 0, mean_T, running_T)
    return jnp.where(count_T == 0, square_T, running_T)
