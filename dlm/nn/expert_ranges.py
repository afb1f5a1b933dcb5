"""Where the rows of each expert are, and loops over blocks of them (`nn.expert_blocks`)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dlm.nn.expert_plan import Plan


class RowRanges(NamedTuple):
    """Where the rows of each expert are."""

    order_E: jax.Array  # experts, heaviest first
    start_E: jax.Array
    end_E: jax.Array

    @classmethod
    def of(cls, sizes_E: jax.Array) -> "RowRanges":
        """Returns the ranges of experts with so many rows."""
        end_E = jnp.cumsum(sizes_E)
        return cls(jnp.argsort(-sizes_E), end_E - sizes_E, end_E)

    def window(
        self,
        expert_G: jax.Array,
        B: int,
        R: int,
    ) -> tuple[jax.Array, jax.Array]:
        """Returns (start_G, live_GB1) of B of R rows, each expert's own among them.

        A window never ends beyond the last row.
        """
        own_G = self.start_E[expert_G]
        start_G = jnp.minimum(own_G, R - B)
        row_GB = start_G[:, None] + jnp.arange(B)
        after_GB = row_GB >= own_G[:, None]
        before_GB = row_GB < self.end_E[expert_G][:, None]
        return start_G, (after_GB & before_GB)[..., None]

    def each_product(
        self,
        plan: Plan,
        carry,
        step: Callable,
        inputs=None,
    ):
        """Scans over all first blocks: carry, output ← step(B, carry, (experts, input)).

        Args:
            plan: the products.
            carry: before the first one.
            step: computes one of them.
            inputs: for each kind of product, along its products, or None.

        Returns the last carry and, for each kind of product, the outputs.
        """
        begin = 0
        outputs: list[Any] = []
        for i, (number, G, B) in enumerate(plan.products):
            end = begin + number * G
            expert_NG = self.order_E[begin:end].reshape(number, G)
            own = None if inputs is None else inputs[i]
            blocks = expert_NG, own
            carry, output = jax.lax.scan(partial(step, B), carry, blocks)
            begin = end
            outputs.append(output)
        return carry, outputs


class Further(NamedTuple):
    """All blocks of C rows that do not fit into the first blocks, N with room for the most."""

    expert_N: jax.Array
    own_N: jax.Array  # the block's first row
    start_N: (
        jax.Array
    )  # the same, or earlier where the block would end beyond the last row
    stop_N: jax.Array  # the end of the expert's rows
    blocks: jax.Array  # their number, at most N
    C: int

    @classmethod
    def of(
        cls,
        sizes_E: jax.Array,
        first_E: jax.Array,
        R: int,
        C: int,
    ) -> "Further":
        """Returns the blocks of experts with so many rows, `first_E` of them computed."""
        E = len(sizes_E)
        start_E = jnp.cumsum(sizes_E) - sizes_E
        block_N = jnp.arange(R // C + E)
        left_E = jnp.maximum(sizes_E - first_E, 0)
        blocks_E = -(-left_E // C)  # rounded up
        # The expert of each block, and the block's number among the expert's.
        end_E = jnp.cumsum(blocks_E)
        expert_N = jnp.searchsorted(end_E, block_N, side="right")
        expert_N = jnp.minimum(expert_N, E - 1)
        number_N = block_N - (end_E - blocks_E)[expert_N]
        own_N = (start_E + first_E)[expert_N] + number_N * C
        start_N = jnp.minimum(own_N, R - C)
        stop_N = (start_E + sizes_E)[expert_N]
        return cls(expert_N, own_N, start_N, stop_N, end_E[-1], C)

    def each(self, carry, body: Callable):
        """Returns the last carry of carry ← body(expert, start, live_C1, carry)."""

        def one(i, carry):
            start = self.start_N[i]
            row_C = start + jnp.arange(self.C)
            # A block that starts earlier has rows that are computed already.
            after_C = row_C >= self.own_N[i]
            live_C = after_C & (row_C < self.stop_N[i])
            return body(self.expert_N[i], start, live_C[:, None], carry)

        return jax.lax.fori_loop(0, self.blocks, one, carry)
