"""How the times of a batch are drawn: each t uniform on [0, 1), so that no kind changes a loss's mean, only its variance.

    iid           u_b                                          independent
    stratified    (π(b) + u_b)/B                               one in each B-th of [0, 1), in a random order over the global batch
    antithetic    u, 1 − u, u', 1 − u', …                      neighbours b = 2j, 2j + 1 mirror each other

A sample may consist of parts (blocks) with times of their own; stratified ones are turned from part to part by the golden ratio, so that
they are spread within a sample as well. A sample's number and the step decide its times, whatever batch, host or microbatch it is in.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from dlm.run import keys

Kind = Literal["stratified", "iid", "antithetic"]
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
