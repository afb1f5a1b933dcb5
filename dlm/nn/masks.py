"""Which positions a position may see: a static spec, plus the segments of a packed batch, with one dense reference.

full, 1 segment    causal          causal, shift 1        two segments, full     block, size 2
█ █ █ █            █ · · ·         reads token i−1,       █ █ · ·                █ █ · ·
█ █ █ █            █ █ · ·         predicts token i:      █ █ · ·                █ █ · ·
█ █ █ █            █ █ █ ·         sees j < i only        · · █ █                █ █ █ █
█ █ █ █            █ █ █ █                                · · █ █                █ █ █ █

Two streams: where a canvas carries the clean sequence too (`fields['clean_BL']`), a network reads [z ; x] at once, so that every block is
predicted from its own noised tokens and from clean earlier ones in one pass (BD3-LM, arXiv:2503.09573, figure 3):

             z        x        block, size 2                    partition: the two groups predict each other
    z     █ █ · ·  · · · ·     z sees its block of z,           z_i sees itself (a mask) and the other group of x,
          █ █ · ·  · · · ·     and the blocks of x before it    x sees its own group (PGM, arXiv:2505.18883)
          · · █ █  █ █ · ·
          · · █ █  █ █ · ·
    x     · · · ·  █ █ · ·     x sees the blocks up to its own; with context='causal' the tokens up to itself
          · · · ·  █ █ · ·     (NB-Diff, arXiv:2512.06776)
          · · · ·  █ █ █ █
          · · · ·  █ █ █ █
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Mask:
    """A static attention spec. With `shift` 1 position i reads token i−1 (bos where a segment starts) and predicts token i."""

    kind: Literal["full", "causal", "block", "partition"] = "full"
    shift: Literal[0, 1] = 0
    size: int = 0  # positions of a block, counted from the start of each segment
    context: Literal["block", "causal"] = "block"  # how the clean stream sees itself

    @property
    def needs_clean(self) -> bool:
        """Whether a network must be given the clean tokens in a stream of their own, in sampling too."""
        return self.kind == "partition" or self.context == "causal"


class Streams(NamedTuple):
    """Who sees whom in a two-stream pass."""

    noised: jax.Array  # bool [B or 1, L, 2L]: z on [z ; x]
    clean: jax.Array  # bool [B or 1, L, L]: x on x


def dense(mask: Mask, query_L, memory_M, segments_BL=None, segments_BM=None, block_BL=None, block_BM=None):
    """bool [B or 1, L, M], True where position query_L may see memory_M; None where everything sees everything."""
    allowed = None
    if mask.kind == "causal":
        allowed = (query_L[:, None] >= memory_M[None, :])[None]
    if mask.kind == "block":
        allowed = block_BL[:, :, None] >= block_BM[:, None, :]
    return _within(allowed, segments_BL, segments_BM)


def streams(mask: Mask, block_BL, segments_BL=None) -> Streams:
    """Who sees whom on [z ; x]. Blocks are seen in the order of their numbers, whatever positions they hold."""
    i_L = jnp.arange(block_BL.shape[1])
    query, memory = block_BL[:, :, None], block_BL[:, None, :]
    if mask.kind == "partition":
        own, other, clean = (i_L[:, None] == i_L)[None], query != memory, query == memory
    else:
        own, other, clean = query == memory, query > memory, query >= memory
        if mask.context == "causal":
            clean = (i_L[:, None] >= i_L)[None]
    own, other, clean = (_within(a, segments_BL, segments_BL) for a in jnp.broadcast_arrays(own, other, clean))
    return Streams(jnp.concatenate([own, other], -1), clean)


def blocks(size, fields: dict, length: int) -> jax.Array:
    """The number of each position's block, [B or 1, L]: where in the row it starts. No block reaches over a segment's start.

    `fields['block_BL']` says otherwise: an order of its own, or the groups of a partition.
    """
    place_1L = jnp.arange(length)[None]
    return fields.get("block_BL", place_1L - fields.get("positions_BL", place_1L) % size)


def _within(allowed, segments_BL, segments_BM):
    if segments_BL is None:
        return allowed
    same = segments_BL[:, :, None] == segments_BM[:, None, :]
    return same if allowed is None else allowed & same


def shifted(z_BL: jax.Array, before_B: jax.Array, bos: int, segments_BL=None) -> jax.Array:
    """What position i reads under shift 1: the token before it, or bos where its segment starts; before_B precedes the slice."""
    previous_BL = jnp.concatenate([before_B[:, None], z_BL[:, :-1]], 1)
    if segments_BL is None:
        return previous_BL
    starts_BL = jnp.concatenate([jnp.zeros_like(segments_BL[:, :1], bool), segments_BL[:, 1:] != segments_BL[:, :-1]], 1)
    return jnp.where(starts_BL, bos, previous_BL)
