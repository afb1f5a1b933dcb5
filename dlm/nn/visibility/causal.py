"""Every position attends to itself and to what is before it: autoregression.

    allowed(i, j) = (j ≤ i)

With shift='input' position i reads token i − 1 and predicts token i (ours; the usual way is to
read token i and to predict token i + 1, which is the same network one position further).
"""

from typing import ClassVar, Literal

import jax

from dlm.core.contracts import Layout, Pair
from dlm.core.pytree import pytree, static
from dlm.nn.visibility import compare


@pytree
class Causal:
    shift: Literal["none", "input"] = static(default="input")

    block: ClassVar[int] = 1
    infills: ClassVar[bool] = False
    exact_cache: ClassVar[bool] = True
    streams: ClassVar[Literal[1]] = 1
    needs_clean: ClassVar[bool] = False
    any_order: ClassVar[bool] = False

    def allowed(self, query: Layout, key: Layout, pair: Pair) -> jax.Array:
        """Returns which keys are not after the query, in the row."""
        query_BL1, key_B1M = compare(query.index_BL, key.index_BL)
        return query_BL1 >= key_B1M
