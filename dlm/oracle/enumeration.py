"""Exact answers on small worlds: bounds, the output law of a sampler, distances.

    bound(x) = ∫₀¹ dt Σ_z q(z_t = z | x) Σ_i nats_i(z, t)          q = exp(objective.log_q)

A Monte-Carlo bound is unbiased, but its exponential is not: Σ_x exp(−bound) was 7.11 with one draw
where the truth is 1. So nothing here is drawn: z runs over every sequence that `objective.log_q`
allows, t over quadrature nodes, and sums are in float64.

Axes: X all texts, Z all noised sequences, R pairs (x, z), T times.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from dlm.core.contracts import (
    Batch,
    Canvas,
    Layout,
    Models,
    Net,
    Transition,
)
from dlm.core.vocab import Vocab

_ROWS = 4096  # rows of one compiled call
# With at most so many times each is tried for what may happen; with more the middle one shows it.
_FEW = 12


def all_sequences(size: int, length: int) -> np.ndarray:
    """Returns every sequence of `length` ids below `size`, x_XL, the last position fastest."""
    shape = (size,) * length
    x_LX = np.indices(shape).reshape(length, -1)
    return x_LX.T.astype(np.int32)


def total_variation(p_X, q_X) -> float:
    """Returns half the L1 distance of two laws."""
    # float32 sums of many small numbers would lose digits.
    p_X = np.asarray(p_X, np.float64)
    q_X = np.asarray(q_X, np.float64)
    return 0.5 * float(np.abs(p_X - q_X).sum())


def alphabet(vocab: Vocab) -> np.ndarray:
    """Returns the ids that a canvas may hold: those that a model may generate, then the mask."""
    # The mask comes last, so that all others can be cut off.
    tokens = [i for i in range(vocab.size) if i not in vocab.never]
    return np.array([*tokens, vocab.mask], np.int32)


def states(
    objective,
    vocab: Vocab,
    length: int,
) -> np.ndarray:
    """Returns every noised sequence that an objective may draw, z_ZL."""
    z_ZL = objective.support(vocab, length)
    if z_ZL is not None:
        return z_ZL
    # Any token or mask at any position.
    ids = alphabet(vocab)
    return ids[all_sequences(len(ids), length)]


# -------------------------------------------------------------------------------------- bounds


def exact_bound(
    objective,
    net: Net,
    x_BL,
    vocab: Vocab,
    layout: Layout | None = None,
    *,
    noisable_BL=None,
    nodes: int = 64,
    own: dict | None = None,
) -> np.ndarray:
    """Returns the objective's bound on −log p of each row, nats_B, with no sampling error.

    Args:
      objective: the objective.
      net: the network; static under `jit`.
      x_BL: texts.
      vocab: their ids.
      layout: their layout.
      noisable_BL: positions that are corrupted and counted; the bound is conditional on the rest.
      nodes: Gauss–Legendre points for continuous time; a T-step objective has its own T points.
      own: the objective's own parameters.
    """
    # Without a process the text itself is the only state, and nothing depends on time.
    own = own or {}
    batch = _batch(x_BL, noisable_BL, layout)
    B, L = batch.tokens_BL.shape
    if objective.process is None:
        zero_B1 = np.zeros((B, 1), np.float32)
        nats_B = _bound_nats(objective, net, own, batch, batch.tokens_BL, zero_B1)
        return nats_B.astype(np.float64)

    # Every pair of a text and a noised sequence that it may become.
    z_ZL = states(objective, vocab, L)
    times_T, weight_T = times_and_weights(objective, L, nodes)
    row_R, z_RL = support(objective, batch, z_ZL, _few(times_T), own)
    batch_R = _rows(batch, row_R)

    # The sum over z and the quadrature over t.
    nats_B = np.zeros(B)
    for t, weight in zip(times_T, weight_T, strict=True):
        t_R1 = np.full((len(row_R), 1), t, np.float32)
        q_R = np.exp(_sum_log_q(objective, own, batch_R, z_RL, t_R1))
        nats_R = _bound_nats(objective, net, own, batch_R, z_RL, t_R1)
        cost_R = q_R * nats_R.astype(np.float64)
        # A sequence that is impossible at this time may cost infinitely much.
        cost_R = np.where(q_R > 0, cost_R, 0.0)
        np.add.at(nats_B, row_R, weight * cost_R)
    return nats_B


def _few(times_T: np.ndarray) -> np.ndarray:
    """Returns the times that show what is possible."""
    if len(times_T) <= _FEW:
        return times_T
    middle = len(times_T) // 2
    return times_T[middle : middle + 1]


def _batch(
    x_BL,
    noisable_BL,
    layout: Layout | None,
) -> Batch:
    # Every position is noisable unless some are excepted.
    x_BL = np.asarray(x_BL, np.int32)
    if noisable_BL is None:
        noisable_BL = np.ones(x_BL.shape, bool)
    noisable_BL = np.asarray(noisable_BL)
    weights_BL = noisable_BL.astype(np.float32)
    index_B = np.arange(len(x_BL), dtype=np.int32)
    # NumPy's, until a compiled program reads them.
    arrays: tuple[Any, Any, Any, Any] = (x_BL, weights_BL, noisable_BL, index_B)
    return Batch(*arrays, layout=layout or Layout())


def _sum_log_q(
    objective,
    own: dict,
    batch: Batch,
    z_BL,
    t_B1,
) -> np.ndarray:
    """Returns log q(z | x) of each row, in float64."""
    # A product over positions is a sum of logarithms.
    log_q_BL = log_q(objective, own, batch, z_BL, t_B1)
    return np.asarray(log_q_BL, np.float64).sum(-1)


def times_and_weights(
    objective,
    length: int,
    nodes: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nodes and weights of a quadrature in t of total weight 1 on (0, 1).

    dt ∝ u³(1 − u)³ du smooths the fractional powers that a schedule may have at either end. An
    objective that is constant on cells of [0, 1] gives their number by `time_cells(length)`, and
    is evaluated at their ends.
    """
    cells = objective.time_cells(length)
    if cells:
        ends = np.arange(1, cells + 1) / cells
        return ends, np.full(cells, 1 / cells)
    # Continuous time.
    u, weight = np.polynomial.legendre.leggauss(nodes)
    # From (−1, 1) to (0, 1), and from u to t.
    u = (u + 1) / 2
    t = u**4 * (35 - 84 * u + 70 * u**2 - 20 * u**3)  # formula
    slope = 140 * u**3 * (1 - u) ** 3
    return t, weight / 2 * slope


def support(
    objective,
    batch: Batch,
    z_ZL: np.ndarray,
    times_T,
    own: dict | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (row of x, z) for every pair that q makes possible at some of the times.

    Args:
      objective: the objective.
      batch: the texts.
      z_ZL: the noised sequences.
      times_T: the times to try.
      own: the objective's own parameters.
    """
    # Every text with every state, then those pairs that are possible at some time.
    texts = len(batch.tokens_BL)
    text_X = np.arange(texts)
    row_R = np.repeat(text_X, len(z_ZL))
    z_RL = np.tile(z_ZL, (texts, 1))
    batch_R = _rows(batch, row_R)
    possible_R = np.zeros(len(row_R), bool)
    for t in times_T:
        t_R1 = np.full((len(row_R), 1), t, np.float32)
        log_q_RL = log_q(objective, own or {}, batch_R, z_RL, t_R1)
        possible_R |= np.isfinite(log_q_RL).all(-1)
    return row_R[possible_R], z_RL[possible_R]


@partial(jax.jit, static_argnums=0)
def log_q(
    objective,
    own: dict,
    batch: Batch,
    z_BL,
    t_B1,
) -> Array:
    """Returns log q(z | x) in parts along the positions, by one compiled program.

    Args:
      objective: the objective; static under `jit`.
      own: its own parameters.
      batch: the texts.
      z_BL: the noised sequences.
      t_B1: their times.
    """
    t_BL = jnp.broadcast_to(t_B1, z_BL.shape)
    return objective.log_q(batch, z_BL, t_BL, own)


def _rows(batch: Batch, row_R: np.ndarray) -> Batch:
    """Returns the rows of a batch with these numbers."""
    # On the host: a compiled gather for every size would take longer.
    return jax.tree.map(lambda a: np.asarray(a)[row_R], batch)


def _cut(arrays, part: slice):
    """Returns a part of the rows of a tree of arrays."""
    return jax.tree.map(lambda a: a[part], arrays)


@partial(jax.jit, static_argnums=(0, 1))
def _row_nats(
    objective,
    net: Net,
    own: dict,
    batch: Batch,
    z_BL,
    t_B1,
) -> Array:
    t_BL = jnp.broadcast_to(t_B1, z_BL.shape)
    models = Models(net, own)
    nats_BL = objective.bound_nats(models, batch, z_BL, t_BL)
    return nats_BL.sum(-1)


def _bound_nats(
    objective,
    net: Net,
    own: dict,
    batch: Batch,
    z_BL,
    t_B1,
) -> np.ndarray:
    """Returns the nats of each row, in compiled calls of at most two shapes."""
    # All parts but the last have the same shape, so there are two programs.
    parts = []
    everything = (batch, z_BL, t_B1)
    for begin in range(0, len(z_BL), _ROWS):
        part = slice(begin, begin + _ROWS)
        rows, z_RL, t_R1 = _cut(everything, part)
        nats_R = _row_nats(objective, net, own, rows, z_RL, t_R1)
        parts.append(np.asarray(nats_R))
    return np.concatenate(parts)


# ------------------------------------------------------------------------------------ samplers


def ancestral_law(
    net: Net,
    process,
    visibility,
    steps: int,
    vocab: Vocab,
    length: int,
    layout: Layout | None = None,
) -> np.ndarray:
    """Returns the output law of the ancestral sampler, p_X in the order of `all_sequences`.

    The distribution over every state of the canvas is propagated through `process.reverse`. The
    probability of states that still contain a mask is missing from the sum of the law.

    Args:
      net: the network; static under `jit`.
      process: how tokens are destroyed.
      visibility: of the canvas.
      steps: number of equal steps.
      vocab: the ids.
      length: of a sequence.
      layout: of the canvas.
    """
    ids = alphabet(vocab)
    z_ZL = ids[all_sequences(len(ids), length)]
    # The law at time 1, which does not depend on the text.
    time_11 = np.ones((1, 1), np.float32)
    log_p_ZL = process.log_q(z_ZL, time_11, np.zeros_like(z_ZL))
    log_p_Z = np.asarray(log_p_ZL, np.float64).sum(-1)
    p_Z = np.exp(log_p_Z)
    # Every state is a row of one canvas.
    to_rows = partial(np.broadcast_to, shape=z_ZL.shape)
    layout = jax.tree.map(to_rows, layout or Layout())
    zero_ZL = np.zeros(z_ZL.shape, np.float32)
    arrays: tuple[Any, Any, Any] = (z_ZL, zero_ZL, zero_ZL > 0)
    canvas = Canvas(*arrays, visibility=visibility, layout=layout)
    # From time 1 to 0, through the transition matrix of each step.
    for k in range(steps, 0, -1):
        t = np.float32(k / steps)
        s = np.float32((k - 1) / steps)
        law_ZLV = _reverse(net, process, canvas, t, s)
        p_ZLV = np.asarray(law_ZLV, np.float64)
        kernel_ZZ = _kernel(p_ZLV[:, :, ids])
        p_Z = p_Z @ kernel_ZZ
    masks_Z = np.isin(z_ZL, vocab.mask).any(-1)
    return p_Z[~masks_Z]


def _kernel(p_ZLV: np.ndarray) -> np.ndarray:
    """Returns the probability of each state after each one; positions change independently."""
    Z, length, _ = p_ZLV.shape
    # The product over positions, one after the other.
    kernel_ZZ = np.ones((Z, 1))
    for i in range(length):
        p_Z1V = p_ZLV[:, i][:, None]
        kernel_ZZV = kernel_ZZ[:, :, None] * p_Z1V
        kernel_ZZ = kernel_ZZV.reshape(Z, -1)
    return kernel_ZZ


@partial(jax.jit, static_argnums=(0, 1))
def _reverse(
    net: Net,
    process,
    canvas: Canvas,
    t,
    s,
) -> Array:
    """Returns p(z_s | z_t) of each position, probs_BLV."""
    # All rows are at the same time.
    z_BL, rows = canvas.z_BL, len(canvas.z_BL)
    t_B = jnp.full(rows, t)
    s_B = jnp.full(rows, s)
    t_BL = jnp.broadcast_to(t_B[:, None], z_BL.shape)
    output = net(replace(canvas, t_BL=t_BL))
    step = process.reverse(output.prediction, z_BL, t_B, s_B)
    return step_law(step, z_BL)


def step_law(step: Transition, z_BL) -> Array:
    """Returns the probabilities of the token after a transition, probs_BLV."""
    # 1 and more: the token must change.
    change_BL = jnp.clip(step.change_BL, 0, 1)
    change_BL1 = change_BL[..., None]
    # Where nothing can change the law of the new token is undefined.
    probs_BLV = step.tokens.probs()
    new_BLV = jnp.where(change_BL1 > 0, change_BL1 * probs_BLV, 0.0)
    same_BLV = jax.nn.one_hot(z_BL, probs_BLV.shape[-1])
    return new_BLV + (1 - change_BL1) * same_BLV
