"""Work on the few positions that a step changes, and order positions by scores.

A denoising step reveals about L / steps positions. Sampling and scoring only there costs a fraction
of the [B, L, V] operations that all positions would cost. At most `ROUND` positions of each row are
visited at a time, in as many rounds as the fullest row needs, so any number is handled exactly.

Shapes: B rows, L positions, R of them for each row.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import Prediction
from dlm.samplers import row_keys

ROUND = 16  # positions per row and round
# Scores this close, relative to their size where that exceeds 1, are equal: a hundred roundings of
# float32.
TIE = 1e-5
# The number of ties that a chain of equal scores may span, so that many close scores are not all
# one.
SPAN = 10


def take(array_BL: Array, position_BR: Array) -> Array:
    """Returns each row's values at its positions; beyond its end the last one."""
    take = jnp.take_along_axis
    return take(array_BL, position_BR, 1, mode="clip")


def put(array_BL: Array, position_BR: Array, value_BR) -> Array:
    """Returns the array with values written at each row's positions; those beyond are dropped."""
    value_BR = jnp.broadcast_to(value_BR, position_BR.shape)
    put = jnp.put_along_axis
    return put(array_BL, position_BR, value_BR, 1, inplace=False, mode="drop")


# ------------------------------------------------------------------------------------- in rounds


def over(chosen_BL: Array, body: Callable, carry: Any) -> Any:
    """Repeats carry ← body(carry, position_BR, valid_BR, round) until all chosen are visited."""
    length = chosen_BL.shape[1]
    size = min(ROUND, length)

    def one(state):
        n, left_BL, carry = state
        # Ties of the sort keep their order; a top-k has no operation in StableHLO.
        order_BL = jnp.argsort(~left_BL, 1, stable=True)
        position_BR = order_BL[:, :size]
        valid_BR = take(left_BL, position_BR)
        carry = body(carry, position_BR, valid_BR, n)
        left_BL = put(left_BL, position_BR, False)
        return n + 1, left_BL, carry

    def unfinished(state):
        _, left_BL, _ = state
        return left_BL.any()

    first = jnp.int32(0)
    start = first, chosen_BL, carry
    _, _, carry = jax.lax.while_loop(unfinished, one, start)
    return carry


def reveal(
    key_B: Array,
    prediction: Prediction,
    z_BL: Array,
    revealed_BL: Array,
) -> Array:
    """Returns z with a sample from the prediction at each revealed position."""

    def sample(z_BL, position_BR, valid_BR, n):
        here = prediction.gather(position_BR)
        round_key_B = row_keys.at(key_B, n)
        drawn_BR = here.sample(round_key_B)
        old_BR = take(z_BL, position_BR)
        new_BR = jnp.where(valid_BR, drawn_BR, old_BR)
        return put(z_BL, position_BR, new_BR)

    return over(revealed_BL, sample, z_BL)


def scored(
    prediction: Prediction, z_BL: Array, changed_BL: Array, log_prob_BL: Array
) -> Array:
    """Returns the log-probabilities, those of changed tokens by the prediction."""

    def score(log_prob_BL, position_BR, valid_BR, n):
        del n  # no random numbers
        here = prediction.gather(position_BR)
        ids_BR = take(z_BL, position_BR)
        score_BR = here.log_prob(ids_BR)
        old_BR = take(log_prob_BL, position_BR)
        new_BR = jnp.where(valid_BR, score_BR, old_BR)
        return put(log_prob_BL, position_BR, new_BR)

    return over(changed_BL, score, log_prob_BL)


# -------------------------------------------------------------------------------------- by score


def ranks(score_BL: Array, tie: float = TIE) -> Array:
    """Returns the rank of each position in its row, 0 for the highest score.

    Ties go to the left. Scores that follow each other within `tie` are a tie, up to `SPAN` ties
    from the first of them: no score comes before one that is higher by more. A network without
    learned positions gives the same scores at all positions of a blank canvas except for rounding,
    which differs between batches, caches and devices: without ties rounding would decide.
    """
    i_L = jnp.arange(score_BL.shape[1])
    index_BL = jnp.broadcast_to(i_L, score_BL.shape)
    unsorted = -score_BL, index_BL
    falling_BL, index_BL = jax.lax.sort(unsorted, num_keys=1)
    # A tie begins where the score falls by more than its tolerance, never between two that are −∞.
    previous_BR = falling_BL[:, :-1]
    size_BR = jnp.maximum(1.0, jnp.abs(previous_BR))
    tolerance_BR = tie * size_BR
    fall_BR = falling_BL[:, 1:] - previous_BR
    apart_BR = fall_BR > tolerance_BR
    first_B1 = jnp.ones_like(falling_BL[:, :1], bool)
    begins_BL = jnp.concatenate([first_B1, apart_BR], 1)
    tie_BL = jnp.cumsum(begins_BL, 1)
    order = [tie_BL, index_BL]
    if tie:
        # A long chain of ties is cut into spans.
        begin_BL = jnp.where(begins_BL, falling_BL, -jnp.inf)
        first_BL = jax.lax.cummax(begin_BL, axis=1)
        size_BL = jnp.maximum(1.0, jnp.abs(first_BL))
        span_BL = SPAN * tie * size_BL
        spans_BL = (falling_BL - first_BL) / span_BL
        spans_BL = jnp.where(jnp.isfinite(spans_BL), spans_BL, 0.0)
        spans_BL = spans_BL.astype(jnp.int32)
        order.insert(1, spans_BL)
    *_, index_BL = jax.lax.sort(order, num_keys=len(order))
    blank_BL = jnp.zeros_like(index_BL)
    return put(blank_BL, index_BL, i_L)


def reaches(score_BL: Array, bar: float) -> Array:
    """Returns where score ≥ bar − `TIE`, bool_BL.

    At the bars 0 and 1, where many scores are, rounding does not decide.
    """
    return score_BL >= bar - TIE


def first(
    undecided_BL: Array,
    score_BL: Array,
    t_B: Array,
    s_B: Array,
    more_B: Array | int = 0,
    tie: float = TIE,
) -> Array:
    """Returns the share (t − s)/t of each row's undecided positions with the highest scores.

    Args:
      undecided_BL: the positions to choose from, at least one of which is chosen.
      score_BL: higher first.
      t_B: time before the step.
      s_B: time after it.
      more_B: so many further positions.
      tie: tolerance of equal scores (`ranks`).
    """
    n_B = undecided_BL.sum(1)
    share_B = n_B * (t_B - s_B) / t_B
    # float32 gives 3.0000002 for 3.
    count_B = jnp.ceil(share_B - 1e-3) + more_B
    score_BL = jnp.where(undecided_BL, score_BL, -jnp.inf)
    rank_BL = ranks(score_BL, tie)
    return undecided_BL & (rank_BL < count_B[:, None])
