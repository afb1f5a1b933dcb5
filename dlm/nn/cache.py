"""Keys and values of positions read before: fixed shapes, so that one compiled pass serves every place.

A network that is given a `KV` reads the positions of `seat` alone, writes their keys and values into the memory, and hears all of the
memory that its mask lets it hear. Whoever calls it knows which positions of the memory are worth hearing (`samplers.cached_reader`).
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CacheSlots:
    """Where the positions that are read stand in the memory."""

    row_index_BL: jax.Array  # int32, [1 or B, L]
    start: Any  # of a run of positions, the same for all rows; None where they are scattered
    before_B: jax.Array  # the token before a run, which a shifted mask reads
    fields: dict[str, jax.Array] = field(
        default_factory=dict
    )  # of the whole canvas: segments_BL, block_BL
    first: Any = None  # of a run: what stands before this place is read without being remembered; None: all of it is


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KV:
    k_NBMJK: jax.Array  # keys; with latent attention the rotary key that all heads share
    v_NBMJK: jax.Array  # values; with latent attention what keys and values are made from
    slots: CacheSlots | None = None


def empty(
    layers: int, batch: int, positions: int, sizes: tuple[tuple[int, int], tuple[int, int]], dtype
) -> KV:
    """A cache for `memory` positions with nothing in it; `sizes` are (heads, size) of its two arrays (`nn.config.Attention.memory`)."""
    return KV(*(jnp.zeros((layers, batch, positions, *size), dtype) for size in sizes))


def write(old_kv_BMJK: jax.Array, new_BLJK: jax.Array, slots: CacheSlots) -> jax.Array:
    """The memory with the new positions at their places."""
    new_BLJK = new_BLJK.astype(old_kv_BMJK.dtype)
    if slots.start is not None:
        if slots.first is not None:
            old_BLJK = jax.lax.dynamic_slice_in_dim(
                old_kv_BMJK, slots.start, new_BLJK.shape[1], axis=1
            )
            new_BLJK = jnp.where(
                (slots.row_index_BL >= slots.first)[..., None, None], new_BLJK, old_BLJK
            )
        return jax.lax.dynamic_update_slice_in_dim(old_kv_BMJK, new_BLJK, slots.start, axis=1)
    row_index_BL = jnp.broadcast_to(slots.row_index_BL, new_BLJK.shape[:2])
    return jax.vmap(lambda old_kv, row_index, new: old_kv.at[row_index].set(new))(
        old_kv_BMJK, row_index_BL, new_BLJK
    )
