"""One feed-forward layer for each expert, over rows that lie in the order of their experts: one signature, several ways to compute it.

rows      e e e e e f f g g g g g g ·       sizes = [5, 2, 6]; what follows the last expert's rows is answered with 0
blocks    └─ B ─┘└C┘f f g g g g g g ·       e: its first B rows, and a further block of C for what is over
                    └─ B ─┘└─ B ─┘└C┘       f reads into g's rows, in vain; g again has more than B

loop      every expert reads every row: the reference
blocks    the first B rows of all experts, about an even load, as one batched product; then further blocks of C rows, one after the other,
          as many as there are. With a gradient of its own. Work for E·B + Σ ⌈max(size − B, 0)/C⌉·C rows on every platform
ragged    `jax.lax.ragged_dot`: native on GPU and TPU, E times the work elsewhere
tokamax   tokamax.ragged_dot, whose kernels are the fastest where it has some
"""

import importlib.util
import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dlm.nn.ffn import act
from dlm.run.spec import UserError


def apply(x_RD, sizes_E, weights: dict, *, kind: str, backend: str = "blocks", block: int = 0) -> jax.Array:
    """E_e(x) for each row x of expert e, [R, D]. `weights` holds up_EDF, down_EFD and, where the kind has one, gate_EDF.

    `block` is B; 0: as if the rows were shared out evenly."""
    if backend == "blocks":
        return _blocks(kind, _Sizes.of(block or even(len(x_RD), len(sizes_E)), len(x_RD)), x_RD, sizes_E, weights)
    return {"loop": _loop, "ragged": _ragged, "tokamax": _tokamax}[backend](kind, x_RD, sizes_E, weights)


def check(backend: str) -> None:
    """Raises UserError where a back end's library is missing."""
    if backend == "tokamax" and importlib.util.find_spec("tokamax") is None:
        raise UserError("config.nn.experts.backend='tokamax' needs the package tokamax: pip install tokamax, or choose 'blocks'")


def even(rows: int, experts: int) -> int:
    """An even load and what chance adds to it, in eights: most experts have no row beyond."""
    load = rows / experts
    return 8 * max(math.ceil((load + math.sqrt(load)) / 8), 1)


def _loop(kind, x_RD, sizes_E, weights):
    expert_R = jnp.searchsorted(jnp.cumsum(sizes_E), jnp.arange(len(x_RD)), side="right")  # E after the last one's rows

    def add(y_RD, given):
        e, w = given
        h_RF = act(kind, x_RD @ w["up_EDF"], x_RD @ w["gate_EDF"] if "gate_EDF" in w else None)
        return y_RD + jnp.where((expert_R == e)[:, None], h_RF @ w["down_EFD"], 0), None

    return jax.lax.scan(add, x_RD * 0, (jnp.arange(len(sizes_E)), weights))[0]


def _through(dot, kind, x_RD, sizes_E, weights):
    gate_RF = dot(x_RD, weights["gate_EDF"], sizes_E) if "gate_EDF" in weights else None
    h_RF = act(kind, dot(x_RD, weights["up_EDF"], sizes_E), gate_RF)
    y_RD = dot(h_RF, weights["down_EFD"], sizes_E)
    return jnp.where((jnp.arange(len(x_RD)) < sizes_E.sum())[:, None], y_RD, 0)


def _ragged(kind, x_RD, sizes_E, weights):
    return _through(jax.lax.ragged_dot, kind, x_RD, sizes_E, weights)


def _tokamax(kind, x_RD, sizes_E, weights):
    import tokamax
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # else tokamax would look for its options among ours, and fail
    return _through(tokamax.ragged_dot, kind, x_RD, sizes_E, weights)


# ------------------------------------------------------------------------------------------------------------------- blocks


class _Sizes(NamedTuple):
    """Rows of each expert's first block, and of every further one: small, since less than one of them is computed in vain."""

    first: int
    rest: int

    @classmethod
    def of(cls, first: int, rows: int) -> "_Sizes":
        return cls(first, min(max(first // 4, min(first, 8)), 64, rows))


class _Places(NamedTuple):
    """Where the rows of the first blocks come from and go to."""

    row_EB: jax.Array  # of x; past an expert's load it is another's
    live_EB1: jax.Array
    place_R: jax.Array  # of a row among all first blocks
    live_R1: jax.Array  # whether it is in one

    @classmethod
    def of(cls, sizes_E, R: int, B: int) -> "_Places":
        end_E, at_B = jnp.cumsum(sizes_E), jnp.arange(B)
        start_E = end_E - sizes_E
        expert_R = jnp.minimum(jnp.searchsorted(end_E, jnp.arange(R), side="right"), len(sizes_E) - 1)
        at_R = jnp.arange(R) - start_E[expert_R]
        live_R = (at_R < B) & (jnp.arange(R) < end_E[-1])
        row_EB = jnp.minimum(start_E[:, None] + at_B, R - 1)
        return cls(row_EB, (at_B < sizes_E[:, None])[..., None], expert_R * B + jnp.minimum(at_R, B - 1), live_R[:, None])

    def together(self, y_EBD):
        """The rows of the first blocks in their order, and 0 for all others."""
        return jnp.where(self.live_R1, y_EBD.reshape(-1, y_EBD.shape[-1])[self.place_R], 0)


def _further(sizes_E, R: int, size: _Sizes, carry, body):
    """carry → body(e, start, live_C1, carry) for each block of C rows that does not fit into an expert's first one. A block that would
    reach beyond the last row starts earlier, among rows that are done and not live."""
    start_E, C, n = jnp.cumsum(sizes_E) - sizes_E, size.rest, R // size.rest + len(sizes_E)
    blocks_E = -(-jnp.maximum(sizes_E - size.first, 0) // C)
    end_E = jnp.cumsum(blocks_E)
    expert_N = jnp.minimum(jnp.searchsorted(end_E, jnp.arange(n), side="right"), len(sizes_E) - 1)
    done_N = size.first + (jnp.arange(n) - (end_E - blocks_E)[expert_N]) * C
    own_N, stop_N = start_E[expert_N] + done_N, (start_E + sizes_E)[expert_N]
    start_N = jnp.minimum(own_N, R - C)

    def one(i, carry):
        row_C = start_N[i] + jnp.arange(C)
        return body(expert_N[i], start_N[i], ((row_C >= own_N[i]) & (row_C < stop_N[i]))[:, None], carry)

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


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blocks(kind, size, x_RD, sizes_E, weights):
    return _blocks_fwd(kind, size, x_RD, sizes_E, weights)[0]


def _blocks_fwd(kind, size, x_RD, sizes_E, weights):
    R, places = len(x_RD), _Places.of(sizes_E, len(x_RD), size.first)
    y_EBD, inner_EBF = jax.vmap(partial(_forward, kind))(x_RD[places.row_EB], weights)

    def block(e, start, live_C1, y_RD):
        y_CD, _ = _forward(kind, _cut(x_RD, start, size.rest), {name: w[e] for name, w in weights.items()})
        return _put(y_RD, y_CD, live_C1, start)

    return _further(sizes_E, R, size, places.together(y_EBD), block), (x_RD, sizes_E, weights, inner_EBF)


def _blocks_bwd(kind, size, residual, dy_RD):
    x_RD, sizes_E, weights, inner_EBF = residual
    R, places = len(x_RD), _Places.of(sizes_E, len(x_RD), size.first)
    dy_EBD = jnp.where(places.live_EB1, dy_RD[places.row_EB], 0)
    dx_EBD, dw = jax.vmap(partial(_gradients, kind))(x_RD[places.row_EB], weights, inner_EBF, dy_EBD)

    def block(e, start, live_C1, carry):
        (dx_RD, dw), w = carry, {name: w[e] for name, w in weights.items()}
        x_CD, dy_CD = _cut(x_RD, start, size.rest), jnp.where(live_C1, _cut(dy_RD, start, size.rest), 0)
        dx_CD, new = _gradients(kind, x_CD, w, _inner(x_CD, w), dy_CD)
        return _put(dx_RD, dx_CD, live_C1, start), {name: dw[name].at[e].add(new[name]) for name in dw}

    dx_RD, dw = _further(sizes_E, R, size, (places.together(dx_EBD), dw), block)
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
