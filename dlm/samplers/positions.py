"""Work on the few positions that a step changes, not on all of them: at most 16 per row at a time, until all had their turn.

A denoising step reveals about L / steps positions. Drawing and scoring only there costs a fraction of the [B, L, V] passes that
drawing everywhere would; any number of positions is handled exactly, in as many rounds as the fullest row needs.
"""

import jax
import jax.numpy as jnp

ROUND = 16  # positions per row and round
TIE = 1e-5  # scores this close, of their size where that is above 1, are equal: a hundred roundings of float32
SPAN = 10  # ties that a chain of equal scores may reach over, so that many close scores are not all one


def over(chosen_BL: jax.Array, body, carry):
    """carry ← body(carry, position_BR, valid_BR, round) until every chosen position was visited once."""
    size = min(ROUND, chosen_BL.shape[1])

    def one(state):
        n, left_BL, carry = state
        position_BR = jnp.argsort(~left_BL, 1, stable=True)[
            :, :size
        ]  # ties go to the left; a top-k is no StableHLO
        carry = body(carry, position_BR, take(left_BL, position_BR), n)
        return n + 1, put(left_BL, position_BR, False), carry

    return jax.lax.while_loop(lambda state: state[1].any(), one, (jnp.int32(0), chosen_BL, carry))[
        2
    ]


def reveal(key_B: jax.Array, prediction, z_BL: jax.Array, revealed_BL: jax.Array) -> jax.Array:
    """z with a draw from the prediction at the revealed positions."""

    def draw(z_BL, position_BR, valid_BR, n):
        drawn_BR = prediction.gather(position_BR).sample(
            jax.vmap(jax.random.fold_in, (0, None))(key_B, n)
        )
        return put(z_BL, position_BR, jnp.where(valid_BR, drawn_BR, take(z_BL, position_BR)))

    return over(revealed_BL, draw, z_BL)


def put(array_BL: jax.Array, position_BR: jax.Array, value_BR) -> jax.Array:
    """The array with values written at each row's positions; those beyond its end are dropped."""
    value_BR = jnp.broadcast_to(value_BR, position_BR.shape)
    return jnp.put_along_axis(array_BL, position_BR, value_BR, 1, inplace=False, mode="drop")


def take(array_BL: jax.Array, position_BR: jax.Array) -> jax.Array:
    """Each row's values at its positions; beyond its end the last."""
    return jnp.take_along_axis(array_BL, position_BR, 1, mode="clip")


def ranks(score_BL: jax.Array, tie: float = TIE) -> jax.Array:
    """The rank of each position in its row, 0 for the highest score; ties go to the left.

    Scores that follow each other within `tie` are a tie, up to `SPAN` ties from the first of them: no score goes before one that is higher
    by more. A network without learned positions says the same at every position of a blank canvas but for rounding, which is another in
    every batch, with every cache and on every device: without this it would decide.
    """
    row_index_BL = jnp.broadcast_to(jnp.arange(score_BL.shape[1]), score_BL.shape)
    fallen_BL, row_index_BL = jax.lax.sort((-score_BL, row_index_BL), num_keys=1)
    before_BR = fallen_BL[:, :-1]
    apart_BR = fallen_BL[:, 1:] - before_BR > tie * jnp.maximum(
        1.0, jnp.abs(before_BR)
    )  # never between two that are −∞
    begins_BL = jnp.pad(apart_BR, ((0, 0), (1, 0)), constant_values=True)
    keys = [jnp.cumsum(begins_BL, 1), row_index_BL]
    if tie:
        first_BL = jax.lax.cummax(jnp.where(begins_BL, fallen_BL, -jnp.inf), axis=1)
        spans_BL = (fallen_BL - first_BL) / (SPAN * tie * jnp.maximum(1.0, jnp.abs(first_BL)))
        keys.insert(1, jnp.where(jnp.isfinite(spans_BL), spans_BL, 0.0).astype(jnp.int32))
    *_, row_index_BL = jax.lax.sort(keys, num_keys=len(keys))
    return put(jnp.zeros_like(row_index_BL), row_index_BL, jnp.arange(score_BL.shape[1]))


def reaches(score_BL: jax.Array, bar: float) -> jax.Array:
    """bool_BL: score ≥ bar but for `TIE`, so that at the bars 0 and 1, where scores gather, rounding does not decide."""
    return score_BL >= bar - TIE


def first(
    masked_BL: jax.Array,
    score_BL: jax.Array,
    t_B: jax.Array,
    s_B: jax.Array,
    more_B=0,
    tie: float = TIE,
) -> jax.Array:
    """bool_BL: of each row's masked positions the share (t − s)/t with the highest scores, at least one, and `more`."""
    keep_B = (
        jnp.ceil(masked_BL.sum(1) * (t_B - s_B) / t_B - 1e-3) + more_B
    )  # float32 makes 3 of 3.0000002
    return masked_BL & (ranks(jnp.where(masked_BL, score_BL, -jnp.inf), tie) < keep_B[:, None])
