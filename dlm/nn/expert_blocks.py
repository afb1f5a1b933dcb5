"""Experts in blocks of rows: a few experts in one batched product, which a CPU's cache holds.

rows      e e e e e f f g g g g g g ·       sizes = [5, 2, 6]; rows of no expert yield 0
blocks    └─ B ─┘└C┘f f g g g g g g ·       e: its first B rows, and a further block of C
                    └─ B ─┘└─ B ─┘└C┘       f reads rows of g, in vain; g again has more than B

Experts are in the order of their loads, because those of one product have one B. Further blocks of
C rows follow, as many as there are. The work is Σ B + Σ ⌈max(size − B, 0)/C⌉·C rows on every
platform. The gradient is our own: it reads the same blocks.
"""

from functools import partial

import jax
import jax.numpy as jnp

from dlm.nn.expert_plan import Plan
from dlm.nn.expert_ranges import Further, RowRanges
from dlm.nn.ffn import act

Weights = dict[str, jax.Array]  # up_EDF, down_EFD and, where the kind has one, gate_EDF


def _cut(x, start, C: int):
    return jax.lax.dynamic_slice_in_dim(x, start, C, 0)


def _windows(x, start_G, B: int):
    return jnp.stack([_cut(x, start, B) for start in start_G])


def _put(x, new, live_C1, start):
    """Returns x with the live rows of `new` in it."""
    old = _cut(x, start, len(new))
    new = new.astype(x.dtype)
    new = jnp.where(live_C1, new, old)
    return jax.lax.dynamic_update_slice_in_dim(x, new, start, 0)


def inward_names(weights: Weights) -> list[str]:
    """Returns the names of the matrices that multiply the input."""
    return [name for name in ("up_EDF", "gate_EDF") if name in weights]


def _inner(x, weights: Weights) -> list[jax.Array]:
    """Returns the inputs of the nonlinearity: x·up and, where the kind has one, x·gate."""
    return [x @ weights[name] for name in inward_names(weights)]


def _of_one(weights: Weights, e) -> Weights:
    return {name: w[e] for name, w in weights.items()}


def _of_some(weights: Weights, expert_G) -> Weights:
    some = {}
    for name, w in weights.items():
        matrices = [w[e] for e in expert_G]
        some[name] = jnp.stack(matrices)
    return some


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def apply(
    kind: str,
    plan: Plan,
    x_RD,
    sizes_E,
    weights: Weights,
) -> jax.Array:
    """Returns E_e(x) for each row x of expert e, [R, D].

    Args:
        kind: of the nonlinearity.
        plan: the products.
        x_RD: rows in the order of their experts.
        sizes_E: rows of each expert.
        weights: the matrices of all experts.
    """
    return _apply_fwd(kind, plan, x_RD, sizes_E, weights)[0]


def _apply_fwd(
    kind: str,
    plan: Plan,
    x_RD,
    sizes_E,
    weights: Weights,
):
    R = len(x_RD)
    ranges = RowRanges.of(sizes_E)

    def first(B, y_RD, blocks):
        expert_G, _ = blocks
        start_G, live_GB1 = ranges.window(expert_G, B, R)
        x_GBD = _windows(x_RD, start_G, B)
        forward = jax.vmap(partial(_forward, kind))
        y_GBD, inner = forward(x_GBD, _of_some(weights, expert_G))
        # Windows overlap, so only live rows are written.
        for g in range(len(start_G)):
            y_RD = _put(y_RD, y_GBD[g], live_GB1[g], start_G[g])
        return y_RD, inner

    def further(e, start, live_C1, y_RD):
        x_CD = _cut(x_RD, start, plan.rest)
        y_CD, _ = _forward(kind, x_CD, _of_one(weights, e))
        return _put(y_RD, y_CD, live_C1, start)

    y_RD, inner = ranges.each_product(plan, jnp.zeros_like(x_RD), first)
    first_E = plan.first_E(ranges.order_E)
    others = Further.of(sizes_E, first_E, R, plan.rest)
    residual = x_RD, sizes_E, weights, inner
    return others.each(y_RD, further), residual


def _apply_bwd(kind: str, plan: Plan, residual, dy_RD):
    x_RD, sizes_E, weights, inner = residual
    R = len(x_RD)
    ranges = RowRanges.of(sizes_E)

    def first(B, carry, blocks):
        dx_RD, dw = carry
        expert_G, inner = blocks
        start_G, live_GB1 = ranges.window(expert_G, B, R)
        x_GBD = _windows(x_RD, start_G, B)
        dy_GBD = _windows(dy_RD, start_G, B)
        dy_GBD = jnp.where(live_GB1, dy_GBD, 0)
        backward = jax.vmap(partial(_backward, kind))
        dx_GBD, new = backward(x_GBD, _of_some(weights, expert_G), inner, dy_GBD)
        # An expert has one first block, so its gradient is written, not added.
        for g, e in enumerate(expert_G):
            dx_RD = _put(dx_RD, dx_GBD[g], live_GB1[g], start_G[g])
            dw = {name: _set(dw[name], new[name][g], e) for name in dw}
        return (dx_RD, dw), None

    def further(e, start, live_C1, carry):
        dx_RD, dw = carry
        w = _of_one(weights, e)
        x_CD = _cut(x_RD, start, plan.rest)
        dy_CD = _cut(dy_RD, start, plan.rest)
        dy_CD = jnp.where(live_C1, dy_CD, 0)
        dx_CD, new = _backward(kind, x_CD, w, _inner(x_CD, w), dy_CD)
        dx_RD = _put(dx_RD, dx_CD, live_C1, start)
        return dx_RD, jax.tree.map(partial(_add, e), dw, new)

    # Gradients of the matrices are sums over rows, in float32 at least.
    zeros = jnp.zeros_like(x_RD), jax.tree.map(_precise_zeros, weights)
    carry, _ = ranges.each_product(plan, zeros, first, inner)
    first_E = plan.first_E(ranges.order_E)
    others = Further.of(sizes_E, first_E, R, plan.rest)
    dx_RD, dw = others.each(carry, further)
    dw = {name: dw[name].astype(w.dtype) for name, w in weights.items()}
    return dx_RD, None, dw


def _add(e, sum_E, new):
    return sum_E.at[e].add(new)


def _set(x_E, new, e):
    return jax.lax.dynamic_update_index_in_dim(x_E, new, e, 0)


def _precise(x) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)


def _precise_zeros(x) -> jax.Array:
    return jnp.zeros(x.shape, _precise(x))


def _forward(kind: str, x_BD, weights: Weights):
    """Returns (y, the inputs of the nonlinearity) of one expert."""
    inner = _inner(x_BD, weights)
    return act(kind, *inner) @ weights["down_EFD"], inner


def _backward(
    kind: str,
    x_BD,
    weights: Weights,
    inner: list[jax.Array],
    dy_BD,
):
    """Returns the gradients of x and of each matrix of one expert from that of y."""
    h_BF, back = jax.vjp(partial(act, kind), *inner)
    dh_BF = dy_BD @ weights["down_EFD"].T
    inner_gradients = back(dh_BF.astype(h_BF.dtype))
    d_inner = dict(zip(inward_names(weights), inner_gradients, strict=True))
    dx_BD = sum(d @ weights[name].T for name, d in d_inner.items())
    product = partial(jnp.matmul, preferred_element_type=_precise(x_BD))
    dw = {name: product(x_BD.T, d) for name, d in d_inner.items()}
    dw["down_EFD"] = product(h_BF.T, dy_BD)
    return dx_BD, dw


apply.defvjp(_apply_fwd, _apply_bwd)
