"""From a canvas to what the layers read: ids, positions, and who attends to whom.

    one stream     z, of which shift='input' reads the token before
    two streams    [z ; x] at the same positions; x is at time 0

A document's number (segment) keeps attention within it; padding is segment 0.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dlm.core.contracts import Canvas, Layout
from dlm.core.pytree import pytree, static
from dlm.core.vocab import Vocab
from dlm.nn.attend.base import Backend, Case
from dlm.nn.cache import Slots
from dlm.nn.visibility import two_streams


@dataclass(frozen=True)
class Tokens:
    """What is read: L positions, or 2 L where there are two streams."""

    ids_BL: jax.Array
    positions_BL: jax.Array
    t_BL: jax.Array
    valid_BL: jax.Array  # bool, not padding
    mask_ratio_B: jax.Array  # share of the row's tokens that are masks
    case: Case  # who attends to whom


@pytree
class LayerInputs:
    """What all layers share."""

    cos: jax.Array  # float32 [B, L, 1, K/2], of the rotary angles
    sin: jax.Array
    prepared: Any  # who attends to whom, in the form of the attention backend
    slots: Slots | None  # where keys and values are written; those go through the scan
    time_BLW: (
        jax.Array | None
    )  # features of each position's time; None: not conditioned on it
    valid_BL: jax.Array
    mask_ratio_B: jax.Array
    backend: Backend = static()
    streams: int = static()  # 2: z, then x

    def noised(self, length: int) -> int:
        """Returns how many of the read positions are of the noised stream, if there are two."""
        return length // 2 if self.streams == 2 else 0


def read(canvas: Canvas, vocab: Vocab) -> Tokens:
    """Returns what a network reads of a canvas."""
    B, L = canvas.z_BL.shape
    segments_BL = canvas.layout.segments_BL
    valid_BL = jnp.ones((B, L), bool)
    if segments_BL is not None:
        valid_BL = jnp.broadcast_to(segments_BL > 0, (B, L))
    masked_B = (valid_BL & (canvas.z_BL == vocab.mask)).sum(1)
    mask_ratio_B = masked_B / jnp.maximum(valid_BL.sum(1), 1)

    # With a cache, keys are those of all its positions.
    query = canvas.layout.complete(L)
    key = query
    if canvas.cache is not None:
        key = canvas.cache.layout.complete(canvas.cache.k_NBMJK.shape[2])

    visibility = canvas.visibility
    if canvas.clean_BL is not None or (visibility.needs_clean and canvas.cache is None):
        return _streams(canvas, query, key, vocab, valid_BL, mask_ratio_B)
    ids_BL = canvas.z_BL
    if visibility.shift == "input":
        ids_BL = shifted(canvas, vocab.bos)
    case = Case(visibility, query, key, streams=1)
    positions_BL = query.positions_BL
    assert positions_BL is not None, "the layout must be complete"
    return Tokens(ids_BL, positions_BL, canvas.t_BL, valid_BL, mask_ratio_B, case)


def _streams(
    canvas: Canvas,
    query: Layout,
    key: Layout,
    vocab: Vocab,
    valid_BL: jax.Array,
    mask_ratio_B: jax.Array,
) -> Tokens:
    both = two_streams(canvas, vocab.mask)
    # Groups that predict each other are those of the whole row: there is no cache.
    if both.visibility.block is None:
        query = key = both.layout.complete(canvas.z_BL.shape[1])
    clean_BL, positions_BL = both.clean_BL, query.positions_BL
    assert clean_BL is not None and positions_BL is not None, (
        "the streams must be complete"
    )
    t_BL = jnp.concatenate([canvas.t_BL, jnp.zeros_like(canvas.t_BL)], 1)
    return Tokens(
        jnp.concatenate([both.z_BL, clean_BL], 1),
        jnp.concatenate([positions_BL, positions_BL], 1),
        t_BL,
        jnp.concatenate([valid_BL, valid_BL], 1),
        mask_ratio_B,
        Case(both.visibility, query, key, streams=2),
    )


def shifted(canvas: Canvas, bos: int) -> jax.Array:
    """Returns the token before each position: bos where a segment begins.

    The first position reads `before_B` (bos if there is none), since a row may continue a text.
    """
    z_BL, before_B = canvas.z_BL, canvas.before_B
    if before_B is None:
        before_B = jnp.full(len(z_BL), bos, z_BL.dtype)
    first_B1, others_BL = before_B[:, None], z_BL[:, :-1]
    previous_BL = jnp.concatenate([first_B1, others_BL], 1)
    if canvas.layout.segments_BL is None:
        return previous_BL
    begins_BL = segment_starts(canvas).at[:, 0].set(False)
    return jnp.where(begins_BL, bos, previous_BL)


def segment_starts(canvas: Canvas) -> jax.Array:
    """Marks where a segment begins, bool [B or 1, L]; without segments a row is one."""
    segments_BL = canvas.layout.segments_BL
    if segments_BL is None:
        return jnp.arange(canvas.z_BL.shape[1])[None] == 0
    first_B1 = jnp.ones_like(segments_BL[:, :1], bool)
    changes_BL = segments_BL[:, 1:] != segments_BL[:, :-1]
    return jnp.concatenate([first_B1, changes_BL], 1)
