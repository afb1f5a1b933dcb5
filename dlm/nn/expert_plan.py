"""Which blocks of rows `nn.expert_blocks` computes together, decided before any load is known."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Experts of one product, or as many as have so many rows: enough for a batch, few enough for a
# cache.
_TOGETHER, _ROWS = 4, 512
# Deviations of each quarter's largest load from the mean, if the router is fair: an end that most
# of the heaviest are below, then the quartiles of a normal law.
_HEAVIEST, _QUARTERS = 2.0, (0.7, 0.0, -0.6)


class Product(NamedTuple):
    """Batched products of one shape."""

    number: int
    experts: int  # of each
    rows: int  # B, of each expert


class Plan(NamedTuple):
    """The products of the first blocks, heaviest experts first, and the size of further blocks."""

    products: tuple[Product, ...]
    rest: int  # C: few, since less than one of them is computed in vain

    @classmethod
    def of(
        cls,
        rows: int,
        experts: int,
        block: int,
        load: float,
    ) -> "Plan":
        """Returns the plan for so many experts with `load` rows on average; block 0: chosen."""
        together = max(_TOGETHER, int(_ROWS // max(block or load, 1)))
        quarter = experts // (4 * together) * together
        tiers = [(experts, block or _rows_at(load, 1))]
        if quarter and not block:
            heaviest = experts - 3 * quarter, _rows_at(load, _HEAVIEST)
            tiers = [heaviest] + [(quarter, _rows_at(load, z)) for z in _QUARTERS]
        products = []
        for several, block_rows in tiers:
            B = min(block_rows, rows)
            # As many full products as there are, then one with what is left.
            full, left = divmod(several, together)
            products += [Product(full, together, B), Product(1, left, B)]
        products = [p for p in products if p.number * p.experts]
        lightest = products[-1].rows
        least = min(lightest, 8)
        rest = min(max(lightest // 4, least), 64, rows)
        return cls(tuple(products), rest)

    def first_E(self, order_E: jax.Array) -> jax.Array:
        """Returns the rows of each expert's first block."""
        rows = [p.rows for p in self.products]
        experts = [p.number * p.experts for p in self.products]
        zeros_E = jnp.zeros_like(order_E)
        return zeros_E.at[order_E].set(np.repeat(rows, experts))


def _rows_at(load: float, deviations: float) -> int:
    """Returns a load so many standard deviations above the mean, a multiple of 8."""
    rows = load + deviations * math.sqrt(load)
    return 8 * max(math.ceil(rows / 8), 1)
