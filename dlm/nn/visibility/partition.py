"""Two groups of tokens predict each other, in one pass of two streams (PGM, arXiv:2505.18883).

    z on z    itself alone, a mask        z on x    the other group        x on x    its own group

The groups are the layout's `block_BL`; in sampling the masks and the tokens.
"""

from typing import ClassVar, Literal

import jax

from dlm.core.contracts import Layout, Pair
from dlm.core.pytree import pytree
from dlm.nn.visibility import compare


@pytree
class Partition:
    block: ClassVar[None] = None
    infills: ClassVar[bool] = True
    exact_cache: ClassVar[bool] = False
    streams: ClassVar[Literal[2]] = 2
    needs_clean: ClassVar[bool] = True
    any_order: ClassVar[bool] = True
    shift: ClassVar[Literal["none"]] = "none"

    def allowed(self, query: Layout, key: Layout, pair: Pair) -> jax.Array:
        """Returns which keys are at the query's place (zz), of the other group (zx), or its own."""
        if pair == "zz":
            query_BL1, key_B1M = compare(query.index_BL, key.index_BL)
            return query_BL1 == key_B1M
        group_BL1, group_B1M = compare(query.block_BL, key.block_BL)
        if pair == "zx":
            return group_BL1 != group_B1M
        return group_BL1 == group_B1M
