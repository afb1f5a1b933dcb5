"""One feed-forward layer for each expert, over rows that lie in the order of their experts: one signature, several ways to compute it.

rows      e e e e e f f g g g g g g ·       sizes = [5, 2, 6]; what follows the last expert's rows is answered with 0
blocks    └─ B ─┘└C┘f f g g g g g g ·       e: its first B rows, and a further block of C for what is over
                    └─ B ─┘└─ B ─┘└C┘       f reads into g's rows, in vain; g again has more than B

loop      every expert reads every row: the reference
blocks    the first B rows of a few experts at a time, as one batched product whose rows stay in a CPU's cache; the experts in the order of
          their loads, since those of one product have one B; then further blocks of C rows, as many as there are. With a gradient of its
          own. Work for Σ B + Σ ⌈max(size − B, 0)/C⌉·C rows on every platform
ragged    `jax.lax.ragged_dot`: native on GPU and TPU, E times the work elsewhere
tokamax   tokamax.ragged_dot, whose kernels are the fastest where it has some
"""

import importlib.util
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core.errors import UserError
from dlm.nn.ffn import act

TOGETHER, ROWS = (
    4,
    512,
)  # experts of one product, or as many as have so many rows: enough for a batch, few enough for a cache


def apply(
    x_RD,
    sizes_E,
    weights: dict,
    *,
    kind: str,
    backend: str = "blocks",
    block: int = 0,
    load: float = 0.0,
) -> jax.Array:
    """E_e(x) for each row x of expert e, [R, D]. `weights` holds up_EDF, down_EFD and, where the kind has one, gate_EDF.

    `block` is B; 0: what chance makes of the loads if the router is fair, `load` rows on average (0: all rows are somebody's)."""
    if backend == "blocks":
        return _blocks(
            kind,
            _Plan.of(len(x_RD), len(sizes_E), block, load or len(x_RD) / len(sizes_E)),
            x_RD,
            sizes_E,
            weights,
        )
    return {"loop": _loop, "ragged": _ragged, "tokamax": _tokamax}[backend](
        kind, x_RD, sizes_E, weights
    )


def check(backend: str) -> None:
    """Raises UserError where a back end's library is missing."""
    if backend == "tokamax" and importlib.util.find_spec("tokamax") is None:
        raise UserError(
            "config.nn.experts.backend='tokamax' needs the package tokamax: pip install tokamax, or choose 'blocks'"
        )


def _loop(kind, x_RD, sizes_E, weights):
    expert_R = jnp.searchsorted(
        jnp.cumsum(sizes_E), jnp.arange(len(x_RD)), side="right"
    )  # E after the last one's rows

    def add(y_RD, given):
        e, w = given
        h_RF = act(kind, x_RD @ w["up_EDF"], x_RD @ w["gate_EDF"] if "gate_EDF" in w else None)
        return y_RD + jnp.where((expert_R == e)[:, None], h_RF @ w["down_EFD"], 0), None

    return jax.lax.scan(add, x_RD * 0, (jnp.arange(len(sizes_E)), weights))[0]


def _with(dot, kind, x_RD, sizes_E, weights):
    gate_RF = dot(x_RD, weights["gate_EDF"], sizes_E) if "gate_EDF" in weights else None
    h_RF = act(kind, dot(x_RD, weights["up_EDF"], sizes_E), gate_RF)
    y_RD = dot(h_RF, weights["down_EFD"], sizes_E)
    return jnp.where((jnp.arange(len(x_RD)) < sizes_E.sum())[:, None], y_RD, 0)


def _ragged(kind, x_RD, sizes_E, weights):
    return _with(jax.lax.ragged_dot, kind, x_RD, sizes_E, weights)


def _tokamax(kind, x_RD, sizes_E, weights):
    import tokamax
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # else tokamax would look for its options among ours, and fail
    return _with(tokamax.ragged_dot, kind, x_RD, sizes_E, weights)


# ------------------------------------------------------------------------------------------------------------------- blocks


class _Plan(NamedTuple):
    """The experts in the order of their loads, the heaviest first: how many products, of how many experts, of how many rows of each."""

    parts: tuple[tuple[int, int, int], ...]
    rest: int  # rows of every further block: few, since less than one of them is computed in vain

    @classmethod
    def of(cls, rows: int, experts: int, block: int, load: float) -> "_Plan":
        def about(deviations: float) -> int:
            return 8 * max(math.ceil((load + deviations * math.sqrt(load)) / 8), 1)

        some = max(TOGETHER, int(ROWS // max(block or load, 1)))
        quarter = experts // (4 * some) * some
        tiers = [(experts, block or about(1))]
        if (
            quarter and not block
        ):  # the quartiles of a normal law, and an end that most of the heaviest lie below
            tiers = [
                (experts - 3 * quarter, about(2)),
                *((quarter, about(z)) for z in (0.7, 0, -0.6)),
            ]
        cut = [(n, min(B, rows)) for n, B in tiers]
        parts = [
            (chunks, G, B)
            for n, B in cut
            for chunks, G in ((n // some, some), (1, n % some))
            if chunks * G
        ]
        return cls(tuple(parts), min(max(cut[-1][1] // 4, min(cut[-1][1], 8)), 64, rows))

    def first_E(self, order_E):
        """Rows of each expert's first block."""
        return (
            jnp.zeros_like(order_E)
            .at[order_E]
            .set(np.repeat([B for *_, B in self.parts], [n * G for n, G, _ in self.parts]))
        )


class _RowRanges(NamedTuple):
    """Where the rows of each expert are."""

    order_E: jax.Array
    start_E: jax.Array
    end_E: jax.Array

    @classmethod
    def of(cls, sizes_E):
        end_E = jnp.cumsum(sizes_E)
        return cls(jnp.argsort(-sizes_E), end_E - sizes_E, end_E)

    def window(self, expert_G, B: int, R: int):
        """(start_G, live_GB1) of B rows, those of each expert among them; never beyond the last row."""
        start_G = jnp.minimum(self.start_E[expert_G], R - B)
        row_GB = start_G[:, None] + jnp.arange(B)
        live_GB = (row_GB >= self.start_E[expert_G][:, None]) & (
            row_GB < self.end_E[expert_G][:, None]
        )
        return start_G, live_GB[..., None]

    def each(self, plan: _Plan, carry, some, kept=None):
        """(carry, [what some(carry, a few experts, its row of `kept`, their B) returned beside it]), over all first blocks."""
        begin, outputs = 0, []
        for i, (chunks, G, B) in enumerate(plan.parts):
            expert_NG = self.order_E[begin : begin + chunks * G].reshape(chunks, G)
            given = expert_NG, None if kept is None else kept[i]
            carry, out = jax.lax.scan(
                lambda carry, given, B=B: some(carry, *given, B), carry, given
            )
            begin, outputs = begin + chunks * G, [*outputs, out]
        return carry, outputs


def _remaining_blocks(sizes_E, first_E, R: int, C: int, carry, body):
    """carry → body(e, start, live_C1, carry) for each block of C rows that does not fit into an expert's first one. A block that would
    reach beyond the last row starts earlier, among rows that are done and not live."""
    start_E, n = jnp.cumsum(sizes_E) - sizes_E, R // C + len(sizes_E)
    blocks_E = -(-jnp.maximum(sizes_E - first_E, 0) // C)
    end_E = jnp.cumsum(blocks_E)
    expert_N = jnp.minimum(jnp.searchsorted(end_E, jnp.arange(n), side="right"), len(sizes_E) - 1)
    own_N = (start_E + first_E)[expert_N] + (jnp.arange(n) - (end_E - blocks_E)[expert_N]) * C
    start_N, stop_N = jnp.minimum(own_N, R - C), (start_E + sizes_E)[expert_N]

    def one(i, carry):
        row_C = start_N[i] + jnp.arange(C)
        return body(
            expert_N[i], start_N[i], ((row_C >= own_N[i]) & (row_C < stop_N[i]))[:, None], carry
        )

    return jax.lax.fori_loop(0, end_E[-1], one, carry)


def _cut(x, start, C: int):
    return jax.lax.dynamic_slice_in_dim(x, start, C, 0)


def _put(x, new, live_C1, start):
    """x with the live rows of `new` in it."""
    new = jnp.where(live_C1, new.astype(x.dtype), _cut(x, start, len(new)))
    return jax.lax.dynamic_update_slice_in_dim(x, new, start, 0)


def _inner(x, weights: dict) -> list:
    """What the activation is given: x·up and, where the kind has one, x·gate."""
    return [x @ weights[name] for name in ("up_EDF", "gate_EDF") if name in weights]


def _weights_of(weights: dict, expert_G) -> dict:
    return {name: jnp.stack([w[e] for e in expert_G]) for name, w in weights.items()}


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blocks(kind, plan, x_RD, sizes_E, weights):
    return _blocks_fwd(kind, plan, x_RD, sizes_E, weights)[0]


def _blocks_fwd(kind, plan, x_RD, sizes_E, weights):
    R, places = len(x_RD), _RowRanges.of(sizes_E)

    def some(y_RD, expert_G, _, B):
        start_G, live_GB1 = places.window(expert_G, B, R)
        x_GBD = jnp.stack([_cut(x_RD, start, B) for start in start_G])
        y_GBD, inner = jax.vmap(partial(_forward, kind))(x_GBD, _weights_of(weights, expert_G))
        for g, start in enumerate(start_G):
            y_RD = _put(y_RD, y_GBD[g], live_GB1[g], start)
        return y_RD, inner

    def block(e, start, live_C1, y_RD):
        y_CD, _ = _forward(
            kind, _cut(x_RD, start, plan.rest), {name: w[e] for name, w in weights.items()}
        )
        return _put(y_RD, y_CD, live_C1, start)

    y_RD, inner = places.each(plan, jnp.zeros_like(x_RD), some)
    y_RD = _remaining_blocks(sizes_E, plan.first_E(places.order_E), R, plan.rest, y_RD, block)
    return y_RD, (x_RD, sizes_E, weights, inner)


def _blocks_bwd(kind, plan, residual, dy_RD):
    x_RD, sizes_E, weights, inner = residual
    R, places = len(x_RD), _RowRanges.of(sizes_E)

    def some(carry, expert_G, inner, B):
        (dx_RD, dw), (start_G, live_GB1) = carry, places.window(expert_G, B, R)
        x_GBD, dy_GBD = (jnp.stack([_cut(a, start, B) for start in start_G]) for a in (x_RD, dy_RD))
        dy_GBD = jnp.where(live_GB1, dy_GBD, 0)
        dx_GBD, new = jax.vmap(partial(_gradients, kind))(
            x_GBD, _weights_of(weights, expert_G), inner, dy_GBD
        )
        for g, (e, start) in enumerate(zip(expert_G, start_G, strict=True)):
            dx_RD = _put(dx_RD, dx_GBD[g], live_GB1[g], start)
            dw = {
                name: jax.lax.dynamic_update_index_in_dim(dw[name], new[name][g], e, 0)
                for name in dw
            }
        return (dx_RD, dw), None

    def block(e, start, live_C1, carry):
        (dx_RD, dw), w = carry, {name: w[e] for name, w in weights.items()}
        x_CD, dy_CD = (
            _cut(x_RD, start, plan.rest),
            jnp.where(live_C1, _cut(dy_RD, start, plan.rest), 0),
        )
        dx_CD, new = _gradients(kind, x_CD, w, _inner(x_CD, w), dy_CD)
        return _put(dx_RD, dx_CD, live_C1, start), {
            name: dw[name].at[e].add(new[name]) for name in dw
        }

    precise = {
        name: jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32))
        for name, w in weights.items()
    }
    carry, _ = places.each(plan, (jnp.zeros_like(x_RD), precise), some, inner)
    dx_RD, dw = _remaining_blocks(sizes_E, plan.first_E(places.order_E), R, plan.rest, carry, block)
    return dx_RD, None, {name: dw[name].astype(w.dtype) for name, w in weights.items()}


def _forward(kind, x_BD, weights: dict):
    """(y, what the activation was given) of one expert."""
    inner = _inner(x_BD, weights)
    return act(kind, *inner) @ weights["down_EFD"], inner


def _gradients(kind, x_BD, weights: dict, inner: list, dy_BD):
    """(of x, of each matrix) from that of y, of one expert."""
    names = [name for name in ("up_EDF", "gate_EDF") if name in weights]
    h_BF, back = jax.vjp(partial(act, kind), *inner)
    dh = back((dy_BD @ weights["down_EFD"].T).astype(h_BF.dtype))
    dx_BD = sum(d @ weights[name].T for name, d in zip(names, dh, strict=True))
    precise = partial(jnp.matmul, preferred_element_type=jnp.promote_types(x_BD.dtype, jnp.float32))
    dw = {name: precise(x_BD.T, d) for name, d in zip(names, dh, strict=True)}
    return dx_BD, dw | dict(down_EFD=precise(h_BF.T, dy_BD))


_blocks.defvjp(_blocks_fwd, _blocks_bwd)
