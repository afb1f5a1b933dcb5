"""A feed-forward layer for each expert, over rows in the order of their experts.

One signature, several ways to compute it. Of R rows the first sizes[0] belong to expert 0, and so
on; rows after the last expert's yield 0.

loop      every expert computes every row: the reference
blocks    a few rows of several experts in one product, with a gradient of its own
          (`nn.expert_blocks`); the least work on every platform
ragged    `jax.lax.ragged_dot`: native on GPU and TPU, E times the work elsewhere
tokamax   tokamax.ragged_dot, whose kernels are the fastest where it has some
"""

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlm.core.errors import UserError
from dlm.nn import expert_blocks
from dlm.nn.expert_blocks import Weights
from dlm.nn.expert_plan import Plan
from dlm.nn.ffn import act


class Method(NamedTuple):
    """How the experts are multiplied."""

    kind: str  # of the nonlinearity
    backend: str = "blocks"
    # Rows of every expert that 'blocks' computes first; 0: chosen for the loads of a fair router.
    block: int = 0
    load: float = 0.0  # the mean load; 0: every row belongs to an expert


def apply(
    x_RD: jax.Array,
    sizes_E: jax.Array,
    weights: Weights,
    how: Method,
) -> jax.Array:
    """Returns E_e(x) for each row x of expert e, [R, D].

    Rows are in the order of their experts, sizes_E of each. The weights are up_EDF, down_EFD and,
    where the kind has one, gate_EDF.
    """
    if how.backend == "blocks":
        R, E = len(x_RD), len(sizes_E)
        plan = Plan.of(R, E, how.block, how.load or R / E)
        return expert_blocks.apply(how.kind, plan, x_RD, sizes_E, weights)
    others = {"loop": _loop, "ragged": _ragged, "tokamax": _tokamax}
    return others[how.backend](how.kind, x_RD, sizes_E, weights)


def check(backend: str) -> None:
    """Raises UserError where a back end's library is missing."""
    if backend == "tokamax" and importlib.util.find_spec("tokamax") is None:
        remedy = "pip install tokamax, or choose 'blocks'"
        cause = "config.nn.experts.backend='tokamax' needs the package tokamax"
        raise UserError(f"{cause}: {remedy}")


def _loop(
    kind: str,
    x_RD,
    sizes_E,
    weights: Weights,
) -> jax.Array:
    # Rows after the last expert's belong to expert E, which does not exist.
    end_E, row_R = jnp.cumsum(sizes_E), jnp.arange(len(x_RD))
    expert_R = jnp.searchsorted(end_E, row_R, side="right")

    def add(y_RD, expert):
        e, w = expert
        up_RF = x_RD @ w["up_EDF"]
        gate_RF = x_RD @ w["gate_EDF"] if "gate_EDF" in w else None
        new_RD = act(kind, up_RF, gate_RF) @ w["down_EFD"]
        own_R1 = (expert_R == e)[:, None]
        return y_RD + jnp.where(own_R1, new_RD, 0), None

    experts = jnp.arange(len(sizes_E)), weights
    y_RD, _ = jax.lax.scan(add, x_RD * 0, experts)
    return y_RD


def _with(
    dot: Callable,
    kind: str,
    x_RD,
    sizes_E,
    weights: Weights,
) -> jax.Array:
    """Computes the layer with a product of rows and the matrices of their experts."""
    gate_RF = None
    if "gate_EDF" in weights:
        gate_RF = dot(x_RD, weights["gate_EDF"], sizes_E)
    up_RF = dot(x_RD, weights["up_EDF"], sizes_E)
    h_RF = act(kind, up_RF, gate_RF)
    y_RD = dot(h_RF, weights["down_EFD"], sizes_E)
    # Kernels leave the rows of no expert undefined.
    live_R = jnp.arange(len(x_RD)) < sizes_E.sum()
    return jnp.where(live_R[:, None], y_RD, 0)


def _ragged(
    kind: str,
    x_RD,
    sizes_E,
    weights: Weights,
) -> jax.Array:
    return _with(jax.lax.ragged_dot, kind, x_RD, sizes_E, weights)


def _tokamax(
    kind: str,
    x_RD,
    sizes_E,
    weights: Weights,
) -> jax.Array:
    import tokamax
    from absl import flags

    # Otherwise tokamax would look for its options among ours, and fail.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    return _with(tokamax.ragged_dot, kind, x_RD, sizes_E, weights)
