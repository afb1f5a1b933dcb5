"""Exact answers on small worlds: a bound by enumeration and quadrature, a sampler's output law by propagation, distances.

    bound(x) = ∫₀¹ dt Σ_z q(z_t = z | x) Σ_i terms_i(z, t)          q = exp(objective.log_q), which for most is a product over positions

A Monte-Carlo bound is unbiased, but its exponential is not: Σ_x exp(−bound) read 7.11 with one draw where the truth is 1. So
nothing here is drawn: z runs over every sequence that `objective.log_q` allows, t over quadrature nodes, sums are in float64.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core.contracts import Batch, Canvas, Layout

_ROWS = 4096  # rows of one compiled call
_FEW = 12  # times at which to look for what may happen; of more than that the middle one tells it


def all_sequences(size: int, length: int) -> np.ndarray:
    """Every sequence of `length` ids below `size`, x_XL, the last position running fastest."""
    return np.indices((size,) * length).reshape(length, -1).T.astype(np.int32)


def total_variation(p_X, q_X) -> float:
    """Half the L1 distance of two laws."""
    return 0.5 * float(np.abs(np.asarray(p_X, np.float64) - np.asarray(q_X, np.float64)).sum())


def alphabet(vocab) -> np.ndarray:
    """What a canvas may hold: the ids a model may generate, then the mask."""
    return np.array([i for i in range(vocab.size) if i not in vocab.never] + [vocab.mask], np.int32)


def states(objective, vocab, length: int) -> np.ndarray:
    """Every destroyed sequence that an objective may draw, z_ZL."""
    z_ZL = objective.support(vocab, length)
    return alphabet(vocab)[all_sequences(len(alphabet(vocab)), length)] if z_ZL is None else z_ZL


def exact_bound(
    objective, net, x_BL, vocab, layout=None, *, noisable_BL=None, nodes: int = 64
) -> np.ndarray:
    """The objective's bound on −log p of each row, nats_B, with no sampling error.

    Positions outside `noisable_BL` are given: they are never corrupted and not counted, so the bound is conditional on them.
    `nodes` Gauss–Legendre points in t for continuous time; a T-step objective has its own T points.
    """
    x_BL = np.asarray(x_BL, np.int32)
    noisable_BL = np.ones(x_BL.shape, bool) if noisable_BL is None else np.asarray(noisable_BL)
    batch = Batch(
        x_BL,
        noisable_BL.astype(np.float32),
        noisable_BL,
        np.arange(len(x_BL), dtype=np.int32),
        layout or Layout(),
    )
    if objective.process is None:
        return _bound_nats(
            objective, net, batch, x_BL, np.zeros((len(x_BL), 1), np.float32)
        ).astype(np.float64)
    z_ZL = states(objective, vocab, x_BL.shape[1])
    times_T, weight_T = times_and_weights(objective, x_BL.shape[1], nodes)
    row_R, z_RL = support(
        objective,
        batch,
        z_ZL,
        times_T if len(times_T) <= _FEW else times_T[len(times_T) // 2 :][:1],
    )
    batch_R = _rows(batch, row_R)
    nats_B = np.zeros(len(x_BL))
    for t, weight in zip(times_T, weight_T, strict=True):
        t_R1 = np.full((len(row_R), 1), t, np.float32)
        q_R = np.exp(np.asarray(log_q(objective, batch_R, z_RL, t_R1), np.float64).sum(-1))
        bound_nats_R = _bound_nats(objective, net, batch_R, z_RL, t_R1).astype(np.float64)
        np.add.at(nats_B, row_R, weight * np.where(q_R > 0, q_R * bound_nats_R, 0.0))
    return nats_B


def ancestral_law(
    net, process, visibility, steps: int, vocab, length: int, layout=None
) -> np.ndarray:
    """The output law of the ancestral sampler with `steps` equal steps, p_X in the order of `all_sequences`.

    The distribution over every state of the canvas is propagated through `process.reverse`; what is left on states that still
    hold a mask is missing from the sum of the returned law.
    """
    ids = alphabet(vocab)
    z_ZL = ids[all_sequences(len(ids), length)]
    p_Z = np.exp(
        np.asarray(
            process.log_q(z_ZL, np.ones((1, 1), np.float32), np.zeros_like(z_ZL)), np.float64
        ).sum(-1)
    )
    layout = jax.tree.map(partial(np.broadcast_to, shape=z_ZL.shape), layout or Layout())
    open_ZL = np.zeros(z_ZL.shape, bool)
    canvas = Canvas(z_ZL, np.zeros(z_ZL.shape, np.float32), open_ZL, visibility, layout)
    for k in range(steps, 0, -1):
        t, s = np.float32(k / steps), np.float32((k - 1) / steps)
        p_ZLV = np.asarray(_reverse(net, process, canvas, t, s), np.float64)
        kernel_ZZ = np.ones((len(z_ZL), 1))
        for i in range(length):
            kernel_ZZ = (kernel_ZZ[:, :, None] * p_ZLV[:, i][:, None, ids]).reshape(len(z_ZL), -1)
        p_Z = p_Z @ kernel_ZZ
    return p_Z[(z_ZL != vocab.mask).all(-1)]


def times_and_weights(objective, length, nodes):
    """Quadrature in t of weight 1 on (0, 1); dt ∝ u³(1 − u)³ du smooths the fractional powers that a schedule may have at either end.

    An objective that is constant on cells of [0, 1] says so by `cells(length)`, their number, and is read at their ends.
    """
    time_cells = objective.time_cells(length)
    if time_cells:
        return np.arange(1, time_cells + 1) / time_cells, np.full(time_cells, 1 / time_cells)
    u, weight = np.polynomial.legendre.leggauss(nodes)
    u = (u + 1) / 2
    return u**4 * (35 - 84 * u + 70 * u**2 - 20 * u**3), weight / 2 * 140 * u**3 * (1 - u) ** 3


def support(objective, batch, z_ZL, times_T):
    """(row of x, z) for every pair that has a chance under q at some of the times."""
    row_R, z_RL = (
        np.repeat(np.arange(len(batch.tokens_BL)), len(z_ZL)),
        np.tile(z_ZL, (len(batch.tokens_BL), 1)),
    )
    batch_R, fits_R = _rows(batch, row_R), np.zeros(len(row_R), bool)
    for t in times_T:
        fits_R |= np.isfinite(
            log_q(objective, batch_R, z_RL, np.full((len(row_R), 1), t, np.float32))
        ).all(-1)
    return row_R[fits_R], z_RL[fits_R]


def _rows(batch, row_R):
    return jax.tree.map(lambda a: np.asarray(a)[row_R], batch)


@partial(jax.jit, static_argnums=0)
def log_q(objective, batch, z_BL, t_B1):
    return objective.log_q(batch, z_BL, jnp.broadcast_to(t_B1, z_BL.shape))


@partial(jax.jit, static_argnums=(0, 1))
def _terms_jit(objective, net, batch, z_BL, t_B1):
    return objective.bound_nats(net, batch, z_BL, jnp.broadcast_to(t_B1, z_BL.shape)).sum(-1)


def _bound_nats(objective, net, batch, z_BL, t_B1):
    """Σ_i terms per row, in compiled calls of one shape or two."""
    rows = len(z_BL)
    parts = [slice(i, i + _ROWS) for i in range(0, rows, _ROWS)]

    def cut(part):
        return jax.tree.map(lambda a: a[part], batch)

    return np.concatenate(
        [np.asarray(_terms_jit(objective, net, cut(p), z_BL[p], t_B1[p])) for p in parts]
    )


@partial(jax.jit, static_argnums=(0, 1))
def _reverse(net, process, canvas: Canvas, t, s):
    t_B, s_B = jnp.full(len(canvas.z_BL), t), jnp.full(len(canvas.z_BL), s)
    t_BL = jnp.broadcast_to(t_B[:, None], canvas.z_BL.shape)
    output = net(replace(canvas, t_BL=t_BL))
    return process.reverse(output.prediction, canvas.z_BL, t_B, s_B)
