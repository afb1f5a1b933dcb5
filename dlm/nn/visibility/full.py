"""Every position attends to the whole canvas, or, while that is learned, to a limited reach ahead.

    allowed(i, j) = (j ≤ i + reach)          without a reach: always

A limited reach lets an autoregressive model become a masked one step by step (DiffuLLaMA,
arXiv:2410.17891, section 3.2). With shift='output' token i is predicted at position i − 1, as
such a model has learned to; the first token of a segment at its own position.
"""

from typing import ClassVar, Literal

import jax

from dlm.core.contracts import Layout, Pair
from dlm.core.pytree import leaf, pytree, static
from dlm.nn.visibility import compare


@pytree
class Full:
    shift: Literal["none", "output"] = static(default="none")
    reach_B1: jax.Array | None = leaf(
        default=None
    )  # int32, positions that a query may look ahead

    block: ClassVar[None] = None
    infills: ClassVar[bool] = True
    exact_cache: ClassVar[bool] = False
    streams: ClassVar[Literal[1]] = 1
    needs_clean: ClassVar[bool] = False
    any_order: ClassVar[bool] = True

    def allowed(self, query: Layout, key: Layout, pair: Pair) -> jax.Array | None:
        """Returns None, or which keys are within reach."""
        if self.reach_B1 is None:
            return None
        query_BL1, key_B1M = compare(query.index_BL, key.index_BL)
        return query_BL1 + self.reach_B1[:, :, None] >= key_B1M
