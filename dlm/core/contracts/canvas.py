"""What goes into a network: a batch of clean sequences, and the canvas made of it or of a request.

Shapes: B rows, L positions, R of them for each row; in a cache N layers, M positions, J heads
of size K.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from dlm.core.pytree import pytree, static

if TYPE_CHECKING:
    from dlm.core.contracts.visibility import Visibility


@pytree
class Layout:
    """Where each position belongs: int32 [B or 1, L] each, or None.

    All None: one text document, positions 0, 1, …, and the blocks that the visibility defines.
    """

    # Number of the document in a packed row. 0 is padding; attention never crosses documents.
    segments_BL: jax.Array | None = None
    # Position of a token in its document: restarts in each segment.
    positions_BL: jax.Array | None = None
    # Index in the row, where only part of a row is computed (a window, a cached step).
    index_BL: jax.Array | None = None
    # Order of decision: equal numbers together, lower first; for models of any order a rank.
    # None: defined by the visibility.
    block_BL: jax.Array | None = None

    def complete(self, length: int) -> "Layout":
        """Fills in positions_BL and index_BL of a row of `length` positions."""
        index_BL, positions_BL = self.index_BL, self.positions_BL
        if index_BL is None:
            index_BL = jnp.arange(length)[None]
        if positions_BL is None:
            positions_BL = index_BL
        return replace(self, index_BL=index_BL, positions_BL=positions_BL)


@pytree
class Batch:
    """Packed clean sequences. Segment 0 is padding; positions restart in every segment."""

    tokens_BL: jax.Array  # int32
    weights_BL: jax.Array  # float32, 1 where a position counts in the loss
    noisable_BL: jax.Array  # bool, where a process may destroy the token
    index_B: jax.Array  # int32, global sample number
    layout: Layout = Layout()
    before_B: jax.Array | None = (
        None  # int32, token before each row, for a shifted input
    )
    marked_BL: jax.Array | None = (
        None  # bool, tokens that carry the structure (`data.marked_characters`)
    )
    total: int = static(
        default=1
    )  # samples in the global batch, over hosts and microbatches


@pytree
class Cache:
    """Keys and values of positions that were computed before, in arrays of a fixed size.

    A network that is given one computes only the positions of the canvas, writes their keys and
    values to `slots_BL`, and attends to every cached position that the visibility allows.
    """

    k_NBMJK: (
        jax.Array
    )  # keys; with latent attention the rotary key that all heads share
    v_NBMJK: (
        jax.Array
    )  # values; with latent attention what keys and values are computed from
    layout: Layout = Layout()  # of all M positions
    slots_BL: jax.Array | None = (
        None  # int32 [B or 1, L], where to write; M and more: nowhere
    )
    start: Any = (
        None  # first slot of a run, the same for all rows; None: scattered slots
    )
    first: Any = None  # of a run: slots before this one are not written; None: all are


@pytree
class Canvas:
    """The input of a network, the same in training and sampling."""

    z_BL: jax.Array  # int32, noised tokens
    t_BL: jax.Array  # float32, time of each position: 0 clean, 1 all noise
    frozen_BL: jax.Array  # bool, anchors that no sampler may touch
    visibility: "Visibility"  # a pytree: its spec is static, arrays are leaves
    layout: Layout = Layout()
    clean_BL: jax.Array | None = None  # int32, clean tokens, read as a second stream
    before_B: jax.Array | None = (
        None  # int32, token before the row, for a shifted input
    )
    target_BL: jax.Array | None = None  # int32, true tokens, for replays that score
    cache: Cache | None = None  # keys and values of other positions

    @classmethod
    def of(
        cls,
        batch: Batch,
        z_BL: jax.Array,
        t_BL: jax.Array,
        visibility: "Visibility",
        **more: Any,
    ) -> "Canvas":
        """Returns the canvas of a noised batch.

        Args:
            batch: gives the frozen positions and the layout.
            z_BL: noised tokens.
            t_BL: time of each position.
            visibility: who may attend to whom.
            **more: further fields of the canvas; `block_BL` is one of the layout.
        """
        layout = batch.layout
        if "block_BL" in more:
            layout = replace(layout, block_BL=more.pop("block_BL"))
        frozen_BL = ~batch.noisable_BL
        return cls(
            z_BL, t_BL, frozen_BL, visibility, layout, before_B=batch.before_B, **more
        )

    def gather(self, position_BR: jax.Array) -> "Canvas":
        """Returns the canvas at these positions of each row alone, and notes their index.

        Positions beyond the end repeat the last one.
        """
        rows = self.z_BL.shape[0]
        position_BR = jnp.broadcast_to(position_BR, (rows, position_BR.shape[1]))

        def take(x_BL):
            x_BL = jnp.broadcast_to(x_BL, (rows, x_BL.shape[1]))
            return jnp.take_along_axis(x_BL, position_BR, 1, mode="clip")

        return self.cut(take, position_BR)

    def cut(
        self, take: Callable[[jax.Array], jax.Array], index_BR: jax.Array
    ) -> "Canvas":
        """Applies `take` to all that lies along the positions; `index_BR` is what it takes."""
        along = ("z_BL", "t_BL", "frozen_BL", "clean_BL", "target_BL")
        layout = replace(jax.tree.map(take, self.layout), index_BL=index_BR)
        taken = {name: jax.tree.map(take, getattr(self, name)) for name in along}
        return replace(self, layout=layout, **taken)
