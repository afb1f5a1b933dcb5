"""How the times of a batch are drawn: each t uniform on [0, 1), so that no kind changes a loss's mean, only its variance.

    iid           u_b                                          independent
    stratified    (π(b) + u_b)/B                               one in each B-th of [0, 1), in a random order over the global batch
    antithetic    u, 1 − u, u', 1 − u', …                      neighbours b = 2j, 2j + 1 mirror each other

A sample's number and the step decide its time, whatever batch, host or microbatch the sample is in.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from dlm.run import keys

Kind = Literal["stratified", "iid", "antithetic"]


def draw(kind: str, index_B: jax.Array, total: int, key: jax.Array) -> jax.Array:
    """u_B of the samples with these global numbers, of a global batch of `total`; `key` is the step's."""
    own_B = index_B // 2 if kind == "antithetic" else index_B
    u_B = keys.uniform_BL(keys.per_sample(keys.key(key, "time"), own_B), 1)[:, 0]
    if kind == "antithetic":
        return jnp.where(index_B % 2 == 0, u_B, 1 - u_B)
    if kind == "iid":
        return u_B
    stratum_B = jax.random.permutation(keys.key(key, "strata"), total)[index_B % total]
    return (stratum_B + u_B) / total
