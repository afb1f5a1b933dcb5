"""The order in which drafts are filled and verified, and the test that accepts them.

    accept x_i with probability min(1, p_i(x_i)/q_i(x_i)), from the first on
    the first that is refused is drawn from max(0, p_i − q_i)/Σ

The law of the result is p, whatever q (arXiv:2211.17192, theorem 1).

Shapes: B rows, L positions, S of them in a draft, V ids.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from dlm.core import keys
from dlm.core.contracts import Canvas
from dlm.samplers import row_keys


@dataclass(frozen=True)
class Order:
    """The order in which positions are decided, and the part of it that is to be filled."""

    rank_BL: Array  # rank of each position
    position_BL: Array  # positions by rank
    begin_B: Array  # first rank that is not given
    end_B: Array  # behind the last such rank

    @classmethod
    def of(cls, canvas: Canvas, rank_BL: Array, left_to_right: bool) -> "Order":
        B, L = rank_BL.shape
        position_BL = jnp.argsort(rank_BL, 1)
        open_BL = ~canvas.frozen_BL
        if not left_to_right:
            begin_B = canvas.frozen_BL.sum(1)
            end_B = jnp.full(B, L)
            return cls(rank_BL, position_BL, begin_B, end_B)
        # Anchors and padding behind the last hole are not visited.
        after_L = jnp.arange(L) + 1
        end_B = jnp.where(open_BL, after_L, 0).max(1)
        begin_B = jnp.where(open_BL.any(1), open_BL.argmax(1), end_B)
        return cls(rank_BL, position_BL, begin_B, end_B)


def accepted(
    key_B: Array,
    p_BSV: Array,
    q_BSV: Array,
    drafted_BS: Array,
    valid_BS: Array,
) -> tuple[Array, Array]:
    """Returns (tokens, how many are settled).

    They are drafts up to the first refused one, and its substitute.

    Args:
      key_B: one key for each row.
      p_BSV: the verifier's probabilities.
      q_BSV: the probabilities with which the draft was drawn.
      drafted_BS: the draft.
      valid_BS: positions that belong to it.
    """
    accept_B = row_keys.named(key_B, "accept")
    again_B = row_keys.named(key_B, "again")
    S = drafted_BS.shape[1]

    def prob_of_draft(law_BSV):
        return jnp.take_along_axis(law_BSV, drafted_BS[..., None], -1)[..., 0]

    u_BS = keys.uniform_BL(accept_B, S)
    q_BS = prob_of_draft(q_BSV)
    p_BS = prob_of_draft(p_BSV)
    refused_BS = (u_BS * q_BS >= p_BS) & valid_BS
    first_B = jnp.where(refused_BS.any(1), refused_BS.argmax(1), S)
    rest_BSV = jnp.maximum(p_BSV - q_BSV, 0)
    # The two laws may be equal up to rounding.
    rest_BS1 = rest_BSV.sum(-1, keepdims=True)
    rest_BSV = jnp.where(rest_BS1 > 0, rest_BSV, p_BSV)
    other_BS = keys.categorical(again_B, jnp.log(rest_BSV))
    is_first_BS = jnp.arange(S) == first_B[:, None]
    tokens_BS = jnp.where(is_first_BS, other_BS, drafted_BS)
    return tokens_BS, jnp.minimum(first_B + 1, valid_BS.sum(1))
