"""How the times of a batch are drawn: uniform on [0, 1), or divided by their density, so that no kind changes a loss's mean.

    iid           u_b                                          independent
    stratified    (π(b) + u_b)/B                               one in each B-th of [0, 1), in a random order over the global batch
    antithetic    u, 1 − u, u', 1 − u', …                      neighbours b = 2j, 2j + 1 mirror each other
    importance    F⁻¹(stratified)                              density p ∝ √E[cost² | t], from a running mean over buckets of t; the cost is
                                                               divided by it (arXiv:2102.09672, section 3.3)

A sample may consist of parts (blocks) with times of their own; stratified ones are turned from part to part by the golden ratio, so that
they are spread within a sample as well. A sample's number and the step decide its times, whatever batch, host or microbatch it is in.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from dlm.core import keys

Kind = Literal["stratified", "iid", "antithetic", "importance"]
BUCKETS = 32
_PLAIN, _KEPT = (
    0.1,
    0.95,
)  # share of uniform times among those of importance; how much of a running mean an update leaves
_GOLDEN = 0.6180339887


def draw(kind: str, index_B: jax.Array, total: int, key: jax.Array, parts: int = 1) -> jax.Array:
    """u_BP of the samples with these global numbers, of a global batch of `total`, one for each of their `parts`; `key` is the step's."""
    own_B = index_B // 2 if kind == "antithetic" else index_B
    u_BP = keys.uniform_BL(keys.per_sample(keys.key(key, "time"), own_B), parts)
    if kind == "antithetic":
        return jnp.where(index_B[:, None] % 2 == 0, u_BP, 1 - u_BP)
    if kind == "iid":
        return u_BP
    stratum_B1 = jax.random.permutation(keys.key(key, "strata"), total)[index_B % total][:, None]
    return ((stratum_B1 + u_BP) / total + jnp.arange(parts) * _GOLDEN) % 1


def initial_costs() -> jax.Array:
    """What is remembered of each bucket before the first update: the mean square of a sample's cost, 0 for none yet."""
    return jnp.zeros(BUCKETS)


def importance_times(u_BP: jax.Array, square_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(t_BP, density_BP): uniform numbers moved to where costs were large."""
    has_cost_BT = square_BT > 0
    mean_B1 = square_BT.sum(1, keepdims=True) / jnp.maximum(has_cost_BT.sum(1, keepdims=True), 1)
    size_BT = jnp.sqrt(jnp.where(has_cost_BT, square_BT, jnp.where(mean_B1 > 0, mean_B1, 1.0)))
    p_BT = (1 - _PLAIN) * size_BT / size_BT.sum(1, keepdims=True) + _PLAIN / BUCKETS
    ends_BT = jnp.cumsum(p_BT, 1)
    bucket_BP = jnp.minimum((u_BP[:, :, None] >= ends_BT[:, None, :]).sum(-1), BUCKETS - 1)
    p_BP = jnp.take_along_axis(p_BT, bucket_BP, 1)
    inside_BP = (u_BP - jnp.take_along_axis(ends_BT, bucket_BP, 1) + p_BP) / p_BP
    return (bucket_BP + jnp.clip(inside_BP, 0, 1 - 1e-6)) / BUCKETS, p_BP * BUCKETS


def bucket_costs(t_B: jax.Array, cost_B: jax.Array) -> jax.Array:
    """[2, T]: sums of squares and numbers of samples in each bucket; they add up over microbatches and hosts."""
    bucket_B = jnp.clip((t_B * BUCKETS).astype(int), 0, BUCKETS - 1)
    one_BT = jax.nn.one_hot(bucket_B, BUCKETS)
    return jnp.stack([jnp.square(cost_B) @ one_BT, one_BT.sum(0)])


def updated_costs(square_T: jax.Array, sums_2T: jax.Array) -> jax.Array:
    """The running means after an update."""
    mean_T = sums_2T[0] / jnp.maximum(sums_2T[1], 1)
    return jnp.where(
        sums_2T[1] == 0,
        square_T,
        jnp.where(square_T == 0, mean_T, _KEPT * square_T + (1 - _KEPT) * mean_T),
    )
