"""Keys and values of the positions already decoded: fixed shapes, so that one compiled step serves every position."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KV:
    """`length` positions of M are filled; before_B is the last token read, which a shifted mask needs."""

    k_NBMJK: jax.Array
    v_NBMJK: jax.Array
    before_B: jax.Array  # int32
    length: jax.Array  # int32 scalar


def empty(layers: int, batch: int, memory: int, kv_heads: int, head_size: int, dtype, bos: int) -> KV:
    """A cache for `memory` positions with nothing in it."""
    shape = (layers, batch, memory, kv_heads, head_size)
    return KV(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.full((batch,), bos, jnp.int32), jnp.int32(0))


def write(memory_BMJK: jax.Array, new_BLJK: jax.Array, length: jax.Array) -> jax.Array:
    """The memory with the new positions written after the first `length`."""
    return jax.lax.dynamic_update_slice_in_dim(memory_BMJK, new_BLJK.astype(memory_BMJK.dtype), length, axis=1)
