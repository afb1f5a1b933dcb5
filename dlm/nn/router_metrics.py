"""Metrics of a router, and the update of the balancing bias.

Sums come from `nn.experts`, each with a leading N of layers.

imbalance   (max_d T_d − min_d T_d) / Σ_d T_d · D   over devices d, in multiples of an even load;
            T_d the picks of d's experts (Pangu Pro MoE, arXiv:2505.21411, eq. 2, there over the
            number of tokens)
busiest     max_i T_i / mean_i T_i                  over experts i
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from dlm.core.axes import name_of


def devices(experts, ep: int) -> int:
    """Returns the number of devices whose loads are compared.

    These are those of the mesh; on one device, as many as could hold a group of experts each, or
    K of them.
    """
    if ep > 1:
        return ep
    if experts.router.even:
        return experts.router.groups
    return math.gcd(experts.count, experts.per_token)


def means(routed: dict, active: int, devices: int) -> dict[str, jax.Array]:
    """Returns means over the layers, of all buckets of the mask ratio together."""
    load_NE = routed["load_NZE"].sum(1)
    N, E = load_NE.shape
    load_ND = load_NE.reshape(N, devices, -1).sum(-1)
    # A batch may have no token.
    tokens_N = jnp.maximum(routed["tokens_NZ"].sum(1), 1.0)
    whole_N = jnp.maximum(load_NE.sum(1), 1.0)
    spread_N = load_ND.max(1) - load_ND.min(1)
    imbalance_N = spread_N / whole_N * devices
    busiest_N = load_NE.max(1) / whole_N * E
    dropped_N = routed["dropped_NZ"].sum(1) / tokens_N
    entropy_N = routed["entropy_NZ"].sum(1) / tokens_N
    return dict(
        router_imbalance=imbalance_N.mean(),
        router_busiest=busiest_N.mean(),
        router_dropped=(dropped_N / active).mean(),
        router_entropy=entropy_N.mean(),
    )


def updated_biases(params: Any, routed: dict, rate: float) -> Any:
    """Returns the parameters after b_i += rate · sign(mean load − load_i) in every layer.

    Source: arXiv:2408.15664, algorithm 1.
    """
    load_NE = routed["load_NZE"].sum(1)
    mean_N1 = load_NE.mean(1, keepdims=True)
    push_NE = rate * jnp.sign(mean_N1 - load_NE)

    def moved(path, p):
        if name_of(path) != "bias_GX":
            return p
        # The layers that predict from further back are last.
        own_NE = push_NE[: len(p)]
        if path[0].key == "ahead":
            own_NE = push_NE[-len(p) :]
        return p + own_NE.reshape(p.shape)

    return jax.tree_util.tree_map_with_path(moved, params)
