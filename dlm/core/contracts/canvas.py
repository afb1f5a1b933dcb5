"""What goes into a network: a batch of clean sequences, and the canvas made of it or of a request.

Shapes: B rows, L positions.
"""

from dataclasses import field

import jax

from dlm.core.pytree import pytree, static


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
    # Order of decision: equal numbers together, lower first. None: defined by the visibility.
    block_BL: jax.Array | None = None


@pytree
class Batch:
    """Packed clean sequences. Segment 0 is padding; positions restart in every segment."""

    tokens_BL: jax.Array  # int32
    weights_BL: jax.Array  # float32, 1 where a position counts in the loss
    noisable_BL: jax.Array  # bool, where a process may destroy the token
    index_B: jax.Array  # int32, global sample number
    fields: dict[str, jax.Array] = field(default_factory=dict)  # segments_BL, positions_BL, …
    total: int = static(default=1)  # samples in the global batch, over hosts and microbatches


@pytree
class Canvas:
    """The input of a network, the same in training and sampling."""

    z_BL: jax.Array  # int32, noised tokens
    t_BL: jax.Array  # float32, time of each position: 0 clean, 1 all noise
    frozen_BL: jax.Array  # bool, anchors that no sampler may touch
    fields: dict[str, jax.Array] = field(default_factory=dict)
