"""One feed-forward layer for each expert, over rows that lie in the order of their experts: one signature, several ways to compute it.

rows      e e e e e f f g g g g g g ·       sizes = [5, 2, 6]; what follows the last expert's rows is answered with 0
blocks    └─ B ─┘└─ B ─┘                    expert e: two blocks, the second reaches into f's rows, which f's own block
                    └─ B ─┘└─ B ─┘└─ B ─┘   writes again afterwards: nothing is padded, nothing is copied

loop      every expert reads every row: the reference
blocks    blocks of B rows, one expert after the other, with a gradient of its own: work for Σ max(⌈size/B⌉, 1) blocks on every platform
ragged    `jax.lax.ragged_dot`: native on GPU and TPU, E times the work elsewhere
tokamax   tokamax.ragged_dot, whose kernels are the fastest where it has some
"""

import importlib.util
import math
from functools import partial

import jax
import jax.numpy as jnp

from dlm.nn.ffn import act
from dlm.run.spec import UserError


def apply(x_RD, sizes_E, weights: dict, *, kind: str, backend: str = "blocks", block: int = 0) -> jax.Array:
    """E_e(x) for each row x of expert e, [R, D]. `weights` holds up_EDF, down_EFD and, where the kind has one, gate_EDF."""
    if backend == "blocks":
        rows = block or _block(x_RD.shape[0], sizes_E.shape[0])
        return _blocks(kind, rows, x_RD, sizes_E, weights)
    return {"loop": _loop, "ragged": _ragged, "tokamax": _tokamax}[backend](kind, x_RD, sizes_E, weights)


def check(backend: str) -> None:
    """Raises UserError where a back end's library is missing."""
    if backend == "tokamax" and importlib.util.find_spec("tokamax") is None:
        raise UserError("config.nn.experts.backend='tokamax' needs the package tokamax: pip install tokamax, or choose 'blocks'")


def _block(rows: int, experts: int) -> int:
    """Rows of a block: most experts' whole load where that is small, since a block costs a look at the weights; of a large one a quarter,
    so that little is computed in vain."""
    even = max(rows // experts, 1)
    if even > 256:
        return min(_power(even / 4), 512)
    return max(8 * math.ceil(1.25 * even / 8), 8)


def _power(n: float) -> int:
    """The next power of two."""
    return 1 << math.ceil(math.log2(max(n, 1)))


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


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _blocks(kind, B, x_RD, sizes_E, weights):
    return _forward(kind, B, x_RD, sizes_E, weights, keep=False)[0]


def _blocks_fwd(kind, B, x_RD, sizes_E, weights):
    y_RD, kept = _forward(kind, B, x_RD, sizes_E, weights, keep=True)
    return y_RD, (x_RD, sizes_E, weights, kept)


def _over(sizes_E, B: int, carry, body):
    """body(e, carry, block) for every expert; `block(carry, body)` goes over its blocks: body(start, live_B1, carry)."""
    start_E = jnp.cumsum(sizes_E) - sizes_E

    def expert(e, carry):
        def blocks(carry, body):
            def one(i, carry):
                return body(start_E[e] + i * B, (jnp.arange(B) < sizes_E[e] - i * B)[:, None], carry)

            return jax.lax.fori_loop(1, -(-sizes_E[e] // B), one, one(0, carry))  # the first makes what the others add to

        return body(e, carry, blocks)

    return jax.lax.fori_loop(0, len(sizes_E), expert, carry)


def _longer(x, B: int):
    """With B further rows, so that no block is cut off at the end."""
    return jnp.pad(x, ((0, B), (0, 0)))


def _cut(x, start, B: int):
    return jax.lax.dynamic_slice_in_dim(x, start, B, 0)


def _put(x, new, start):
    return jax.lax.dynamic_update_slice_in_dim(x, new.astype(x.dtype), start, 0)


def _of(weights: dict, e) -> dict:
    return {name: w[e] for name, w in weights.items()}


def _forward(kind, B, x_RD, sizes_E, weights, keep: bool):
    """(y_RD, the inner activations that the gradient needs)."""
    R, F, x_PD = len(x_RD), weights["up_EDF"].shape[-1], _longer(x_RD, B)
    inner = {name: jnp.zeros((R + B, F), x_RD.dtype) for name in ("up_EDF", "gate_EDF") if name in weights and keep}

    def expert(e, carry, blocks):
        w = _of(weights, e)

        def block(start, live_B1, carry):
            y_PD, inner = carry
            x_BD = _cut(x_PD, start, B)
            h = {name: x_BD @ w[name] for name in ("up_EDF", "gate_EDF") if name in w}
            y_BD = act(kind, h["up_EDF"], h.get("gate_EDF")) @ w["down_EFD"]
            return _put(y_PD, jnp.where(live_B1, y_BD, 0), start), {name: _put(inner[name], h[name], start) for name in inner}

        return blocks(carry, block)

    y_PD, inner = _over(sizes_E, B, (jnp.zeros_like(x_PD), inner), expert)
    return y_PD[:R], inner


def _blocks_bwd(kind, B, residual, dy_RD):
    x_RD, sizes_E, weights, inner = residual
    R, x_PD, dy_PD = len(x_RD), _longer(x_RD, B), _longer(dy_RD, B)
    names = [name for name in ("up_EDF", "gate_EDF") if name in weights]

    def expert(e, carry, blocks):
        w = _of(weights, e)

        def block(start, live_B1, carry):
            dx_PD, dw = carry
            x_BD, dy_BD = _cut(x_PD, start, B), jnp.where(live_B1, _cut(dy_PD, start, B), 0)
            h_BF, back = jax.vjp(partial(act, kind), *(_cut(inner[name], start, B) for name in names))
            dh = back((dy_BD @ w["down_EFD"].T).astype(h_BF.dtype))
            dx_BD = sum(d @ w[name].T for name, d in zip(names, dh, strict=True))
            new = {"down_EFD": _outer(h_BF, dy_BD)} | {name: _outer(x_BD, d) for name, d in zip(names, dh, strict=True)}
            return _put(dx_PD, dx_BD, start), new if dw is None else jax.tree.map(jnp.add, dw, new)

        dx_PD, dw_EDF = carry
        dx_PD, dw = blocks((dx_PD, None), block)
        return dx_PD, {name: dw_EDF[name].at[e].set(dw[name].astype(dw_EDF[name].dtype)) for name in dw}

    dx_PD, dw_EDF = _over(sizes_E, B, (jnp.zeros_like(x_PD), jax.tree.map(jnp.zeros_like, weights)), expert)
    return dx_PD[:R], None, dw_EDF


def _outer(a_BF, b_BD):
    return jnp.einsum("BF,BD->FD", a_BF, b_BD, preferred_element_type=jnp.float32)


_blocks.defvjp(_blocks_fwd, _blocks_bwd)
