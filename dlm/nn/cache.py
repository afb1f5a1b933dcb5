"""Keys and values of positions that were computed before: fixed shapes, one compiled pass for all.

The caller knows which cached positions are valid (`samplers.reading`); `Cache` says where the new
ones are written.
"""

from typing import Any

import jax
import jax.numpy as jnp

from dlm.core.contracts import Cache
from dlm.core.pytree import pytree

Size = tuple[int, int]  # heads, and dimensions of each


@pytree
class Slots:
    """Where a pass writes its keys and values, as the fields of `Cache` say."""

    slots_BL: jax.Array
    start: Any
    first: Any


def slots_of(cache: Cache | None) -> Slots | None:
    """Returns where to write, without the keys and values that are there."""
    if cache is None:
        return None
    assert cache.slots_BL is not None, "a cache in a canvas must say where to write"
    return Slots(cache.slots_BL, cache.start, cache.first)


def empty(
    layers: int,
    batch: int,
    positions: int,
    sizes: tuple[Size, Size],
    dtype,
) -> Cache:
    """Returns a cache with nothing in it.

    Args:
        layers: of the network.
        batch: rows.
        positions: that each row has room for.
        sizes: (heads, size) of keys and of values (`nn.config.Attention.memory`).
        dtype: of both.
    """
    keys, values = (
        jnp.zeros((layers, batch, positions, *size), dtype) for size in sizes
    )
    return Cache(keys, values)


def write(
    old_BMJK: jax.Array,
    new_BLJK: jax.Array,
    slots: Slots,
) -> jax.Array:
    """Returns the keys (or values) of a layer with the new ones in their slots."""
    new_BLJK = new_BLJK.astype(old_BMJK.dtype)
    slots_BL = slots.slots_BL
    if slots.start is None:
        slots_BL = jnp.broadcast_to(slots_BL, new_BLJK.shape[:2])
        return jax.vmap(_scatter)(old_BMJK, slots_BL, new_BLJK)
    if slots.first is not None:
        length = new_BLJK.shape[1]
        there_BLJK = jax.lax.dynamic_slice_in_dim(old_BMJK, slots.start, length, axis=1)
        writes_BL11 = (slots_BL >= slots.first)[..., None, None]
        new_BLJK = jnp.where(writes_BL11, new_BLJK, there_BLJK)
    return jax.lax.dynamic_update_slice_in_dim(old_BMJK, new_BLJK, slots.start, axis=1)


def _scatter(old_MJK, slots_L, new_LJK):
    return old_MJK.at[slots_L].set(new_LJK)
