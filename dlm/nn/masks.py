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
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp


@dataclass(frozen=True)
class Mask:
    """A static attention spec. With `shift` 1 token i is predicted from where token i−1 is read: a causal network reads bos where a segment
    starts, one that sees everything predicts a segment's first token from where that itself is read."""

    kind: Literal["full", "causal", "block", "partition"] = "full"
    shift: Literal[0, 1] = 0
    size: int = 0  # positions of a block, counted from the start of each segment
    context: Literal["block", "causal"] = "block"  # how the clean stream sees itself
    order: Literal["fixed", "any"] = (
        "fixed"  # of blocks: whether it was trained on all of them (`fields['block_BL']`)
    )

    @property
    def reads(self) -> int:
        """How many tokens before a row the row reads: 1 where it is causal and shifted."""
        return self.shift if self.kind == "causal" else 0

    @property
    def needs_clean(self) -> bool:
        """Whether a network must be given the clean tokens in a stream of their own, in sampling too."""
        return self.kind == "partition" or self.context == "causal"


class Streams(NamedTuple):
    """Who sees whom in a two-stream pass."""

    noised: jax.Array  # bool [B or 1, L, L + M]: z on [z ; x]
    clean: jax.Array  # bool [B or 1, L, M]: x on x


class Side(NamedTuple):
    """The positions that look, or those that are looked at; each [B or 1, length]."""

    row_index: jax.Array  # where they stand in the row
    block: Any = None  # the number of their block
    segments: Any = None
    reach: Any = None  # how many positions ahead a query may look, [B, 1]; None: to the end


def side(mask: Mask, fields: dict, row_index_BL) -> Side:
    """The positions of a canvas with these fields, which stand at these places."""
    return Side(
        row_index_BL,
        blocks(mask.size, fields, row_index_BL) if mask.kind == "block" else None,
        fields.get("segments_BL"),
        fields.get("reach_B1"),
    )


def dense(mask: Mask, query: Side, keys: Side):
    """bool [B or 1, L, M], True where a query may see a position of the memory; None where everything sees everything."""
    allowed = None
    if mask.kind == "causal":
        allowed = query.row_index[:, :, None] >= keys.row_index[:, None, :]
    if mask.kind == "full" and query.reach is not None:
        allowed = (
            query.row_index[:, :, None] + query.reach[:, :, None] >= keys.row_index[:, None, :]
        )
    if mask.kind == "block":
        allowed = query.block[:, :, None] >= keys.block[:, None, :]
    return _within(allowed, query, keys)


def streams(mask: Mask, queries: Side, keys: Side) -> Streams:
    """Who sees whom on [z ; x], where x is at hand as `memory`. Blocks are seen in the order of their numbers, whatever they hold."""
    query, row_index = queries.block[:, :, None], queries.row_index[:, :, None]
    if mask.kind == "partition":
        itself, other, clean = (
            row_index == queries.row_index[:, None, :],
            query != keys.block[:, None, :],
            query == keys.block[:, None, :],
        )
    else:
        itself, other, clean = (
            query == queries.block[:, None, :],
            query > keys.block[:, None, :],
            query >= keys.block[:, None, :],
        )
        if mask.context == "causal":
            clean = row_index >= keys.row_index[:, None, :]
    itself, other, clean = (
        _within(itself, queries, queries),
        _within(other, queries, keys),
        _within(clean, queries, keys),
    )
    B = max(len(itself), len(other))
    noised = jnp.concatenate([jnp.broadcast_to(a, (B, *a.shape[1:])) for a in (itself, other)], -1)
    return Streams(noised, clean)


def blocks(size, fields: dict, row_index_BL) -> jax.Array:
    """The number of each position's block, [B or 1, L]: where in the row it starts. No block reaches over a segment's start.

    `fields['block_BL']` says otherwise: an order of its own, or the groups of a partition.
    """
    return fields.get("block_BL", row_index_BL - fields.get("positions_BL", row_index_BL) % size)


def _within(allowed, query: Side, keys: Side):
    if query.segments is None:
        return allowed
    same = query.segments[:, :, None] == keys.segments[:, None, :]
    return same if allowed is None else allowed & same


def shifted(z_BL: jax.Array, before_B: jax.Array, bos: int, segments_BL=None) -> jax.Array:
    """What position i reads under shift 1: the token before it, or bos where its segment starts; before_B precedes the slice."""
    previous_BL = jnp.concatenate([before_B[:, None], z_BL[:, :-1]], 1)
    return (
        previous_BL
        if segments_BL is None
        else jnp.where(starts(segments_BL).at[:, 0].set(False), bos, previous_BL)
    )


def starts(segments_BL, length: int = 0) -> jax.Array:
    """Where a segment starts, bool_BL; without segments a row of `length` is one."""
    if segments_BL is None:
        return jnp.arange(length)[None] == 0
    return jnp.concatenate(
        [jnp.ones_like(segments_BL[:, :1], bool), segments_BL[:, 1:] != segments_BL[:, :-1]], 1
    )
