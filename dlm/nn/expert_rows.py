"""Rows in the order of their experts: from tokens to rows, and the weighted sum back.

T tokens have S slots each, so pair p = t·S + s is a slot of a token. Pairs are sorted by their
experts; R counts all pairs, P those rows that are computed. All gradients gather, and none
scatters, because a scatter is slow and its sums depend on the order.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlm.nn import expert_matmul
from dlm.nn.expert_blocks import Weights
from dlm.nn.expert_matmul import Method


class Order(NamedTuple):
    """Pairs in the order of their experts."""

    pair_R: jax.Array  # the pair at each place
    place_R: jax.Array  # the place of each pair
    sizes_E: jax.Array  # rows of each expert


def by_expert(expert_TS: jax.Array, experts: int) -> Order:
    """Sorts pairs by their experts; those of expert E, which does not exist, are last."""
    expert_R = expert_TS.reshape(-1)
    pair_R = jnp.argsort(expert_R, stable=True)
    count_R = jnp.arange(len(pair_R), dtype=pair_R.dtype)
    zeros_R = jnp.zeros_like(pair_R)
    place_R = zeros_R.at[pair_R].set(count_R, unique_indices=True)
    sizes = jnp.bincount(expert_R, length=experts + 1)
    sizes_E = sizes[:experts]
    return Order(pair_R, place_R, sizes_E)


def through_experts(
    x_TD: jax.Array,
    local_TS: jax.Array,
    weight_TS: jax.Array,
    matrices: Weights,
    how: Method,
) -> jax.Array:
    """Returns the weighted sum of the experts of each token's slots.

    Args:
        x_TD: tokens.
        local_TS: the expert of each slot; expert E does not exist.
        weight_TS: its weight.
        matrices: of E experts.
        how: they are multiplied.
    """
    E = len(matrices["up_EDF"])
    T, S = local_TS.shape
    order = by_expert(local_TS, E)
    # No token has one expert in two slots.
    rows = T * min(S, E)
    pair_P = order.pair_R[:rows]
    place_R = jnp.minimum(order.place_R, rows)
    place_TS = place_R.reshape(T, S)
    x_PD = spread(x_TD, pair_P, place_TS)
    y_PD = expert_matmul.apply(x_PD, order.sizes_E, matrices, how)
    weight_TS = jnp.where(local_TS < E, weight_TS, 0.0)
    return collect(y_PD, weight_TS, pair_P, place_TS)


def _at(x_PD, place):
    """Returns rows of x; 0 where there is none."""
    last = len(x_PD) - 1
    place_or_last = jnp.minimum(place, last)
    rows = x_PD[place_or_last]
    exists = place <= last
    return jnp.where(exists[..., None], rows, 0)


@jax.custom_vjp
def spread(x_TD, pair_P, place_TS):
    """Returns the token of each pair, [P, D]; 0 where there is no such pair."""
    return _at(x_TD, pair_P // place_TS.shape[1])


def _spread_fwd(x_TD, pair_P, place_TS):
    x_PD = spread(x_TD, pair_P, place_TS)
    return x_PD, place_TS


def _spread_bwd(place_TS, dx_PD):
    dx_TSD = _at(dx_PD, place_TS)
    return dx_TSD.sum(1), None, None


spread.defvjp(_spread_fwd, _spread_bwd)


@jax.custom_vjp
def collect(y_PD, weight_TS, pair_P, place_TS):
    """Returns Σ_s weight_ts · y of the row of pair (t, s), [T, D]."""
    y_TSD = _at(y_PD, place_TS)
    weight_TS = weight_TS.astype(y_PD.dtype)
    return jnp.einsum("TSD,TS->TD", y_TSD, weight_TS)


def _collect_fwd(y_PD, weight_TS, pair_P, place_TS):
    residual = y_PD, weight_TS, pair_P, place_TS
    return collect(*residual), residual


def _collect_bwd(residual, dy_TD):
    y_PD, weight_TS, pair_P, place_TS = residual
    T, S = weight_TS.shape
    weight_R = weight_TS.reshape(-1)
    # Pair T·S is none.
    last = T * S - 1
    row_P = jnp.minimum(pair_P, last)
    weight_P = weight_R[row_P]
    weight_P = jnp.where(pair_P < T * S, weight_P, 0.0)
    weight_P1 = weight_P[:, None].astype(dy_TD.dtype)
    dy_PD = _at(dy_TD, pair_P // S)
    dy_PD = dy_PD * weight_P1
    # Gradients of weights are sums over the width, in float32 at any precision of activations.
    y_TSD, wide = _at(y_PD, place_TS), jnp.float32
    dweight_TS = jnp.einsum("TSD,TD->TS", y_TSD, dy_TD, preferred_element_type=wide)
    return dy_PD, dweight_TS, None, None


collect.defvjp(_collect_fwd, _collect_bwd)
