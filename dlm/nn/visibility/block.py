"""Blocks are decided one after the other, the positions of a block together (arXiv:2503.09573).

    z on z    the same block              x on x    blocks up to the query's own,
    z on x    earlier blocks                        or with context='causal' tokens up to itself

Blocks are counted from the start of each segment, or given by the layout's `block_BL`; they are
ordered by their numbers.
"""

from typing import ClassVar, Literal

import jax

from dlm.core.contracts import Layout, Pair
from dlm.core.pytree import pytree, static
from dlm.nn.visibility import compare


@pytree
class Block:
    size: int = static(default=1)  # positions of a block
    context: Literal["block", "causal"] = static(
        default="block"
    )  # how x attends to itself
    any_order: bool = static(
        default=False
    )  # whether it was trained on all orders of blocks

    infills: ClassVar[bool] = False
    exact_cache: ClassVar[bool] = True
    streams: ClassVar[Literal[2]] = 2
    shift: ClassVar[Literal["none"]] = "none"

    @property
    def block(self) -> int:
        """Number of positions decided together."""
        return self.size

    @property
    def needs_clean(self) -> bool:
        """A causal clean stream has other keys than the blocks that sampling decides."""
        return self.context == "causal"

    def allowed(self, query: Layout, key: Layout, pair: Pair) -> jax.Array:
        """Returns which keys are in the query's block (zz), in earlier ones (zx), or in either."""
        if pair == "xx" and self.context == "causal":
            query_BL1, key_B1M = compare(query.index_BL, key.index_BL)
            return query_BL1 >= key_B1M
        block_BL1, block_B1M = compare(
            numbers(self.size, query), numbers(self.size, key)
        )
        if pair == "zz":
            return block_BL1 == block_B1M
        if pair == "zx":
            return block_BL1 > block_B1M
        return block_BL1 >= block_B1M


def numbers(size: int | jax.Array, layout: Layout) -> jax.Array:
    """Returns the number of each position's block, int32 [B or 1, L], for a complete layout.

    It is the index at which the block begins; no block reaches over a segment's start.
    """
    if layout.block_BL is not None:
        return layout.block_BL
    index_BL, positions_BL = layout.index_BL, layout.positions_BL
    assert index_BL is not None and positions_BL is not None, (
        "the layout must be complete"
    )
    return index_BL - positions_BL % size
