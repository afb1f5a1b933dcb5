"""The adversary: gradient ascent on the mass that a bound spends, over all networks.

    spent = sup over networks of Σ_x exp(−bound(x))          at most 1 for a bound, else it is none

A random network wastes so much mass that a wrong bound still sums below 1. So the worst network is
trained. It is a free table of logits, with one row for every different context of a position. x
and z are enumerated, t runs over quadrature nodes.

This law finds what is charged too little. The other law, bound = −log p with the oracle, finds
what is charged too much.

Axes: R rows, each a triple (x, z, t) that is possible; S starts.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from dlm.core.contracts import (
    Batch,
    Canvas,
    Dense,
    Models,
    Net,
    Output,
)
from dlm.core.vocab import Vocab
from dlm.oracle import enumeration
from dlm.oracle.world import views

_SPREAD = 2.0  # standard deviation of the first logits


@dataclass(frozen=True)
class Ascent:
    """Settings of the optimiser; the learning rate falls as rate·(1 − k/steps)^½."""

    steps: int = 500
    starts: int = 3  # random tables
    rate: float = 0.3
    seed: int = 0


@dataclass(frozen=True)
class _Rows:
    """Every possible (x, z, t): the rows of one batch."""

    batch: Batch
    z_RL: np.ndarray
    t_R1: np.ndarray
    share_R: np.ndarray  # quadrature weight × q(z | x)
    text_R: np.ndarray  # number of x
    texts: int


def spent(
    objective,
    vocab: Vocab,
    length: int,
    *,
    nodes: int = 12,
    timed: bool = False,
    ascent: Ascent = Ascent(),
) -> float:
    """Returns the greatest Σ_x exp(−bound(x)) that Adam finds.

    Args:
      objective: gives the bound.
      vocab: ids of the texts.
      length: of the texts.
      nodes: quadrature nodes in time.
      timed: whether the network is given the time, so that its table has a row for each node too.
      ascent: settings of the optimiser.
    """
    # One row for each triple, and for each of its positions the number of its context.
    rows = _rows(objective, vocab, length, nodes)
    contexts = _contexts(objective, rows, vocab, timed)
    ids_V = enumeration.alphabet(vocab)[:-1]

    def log_spent(tables: list[Array]) -> Array:
        net = _table_net(tables, contexts, ids_V, vocab.size)
        nats_R = rows.share_R * _bound_nats(objective, rows, net)
        # The bound of each text is the weighted sum of its rows.
        nats_X = jax.ops.segment_sum(nats_R, rows.text_R, rows.texts)
        return jax.nn.logsumexp(-nats_X)

    def climb_from(key: Array) -> Array:
        tables = _random_tables(key, contexts, len(ids_V))
        return _climb(log_spent, tables, ascent)

    # One program, one start after the other: memory is that of one.
    root = jax.random.key(ascent.seed)
    keys_S = jax.random.split(root, ascent.starts)
    climb_all = jax.jit(lambda keys: jax.lax.map(climb_from, keys))
    reached_S = np.asarray(climb_all(keys_S), np.float64)
    return float(np.exp(reached_S.max()))


def _random_tables(
    key: Array,
    contexts: list[np.ndarray],
    width: int,
) -> list[Array]:
    """Returns a table of logits for each call of the network."""
    # One table for each call of the network.
    tables = []
    keys = jax.random.split(key, len(contexts))
    for k, index_RL in zip(keys, contexts, strict=True):
        # A row for each context.
        size = int(index_RL.max()) + 1
        normal = jax.random.normal(k, (size, width))
        tables.append(_SPREAD * normal)
    return tables


def _climb(
    log_spent: Callable,
    tables: list[Array],
    ascent: Ascent,
) -> Array:
    """Returns the value at the end of the ascent from these tables."""

    def rate_at(k):
        return ascent.rate * jnp.sqrt(1 - k / ascent.steps)

    # Adam descends, so it is given the negative.
    optimizer = optax.adam(rate_at)
    descend = jax.grad(lambda tables: -log_spent(tables))

    def step(
        carry,
        _,
    ):
        tables, state = carry
        updates, state = optimizer.update(descend(tables), state)
        return (optax.apply_updates(tables, updates), state), None

    first = tables, optimizer.init(tables)
    (tables, _), _ = jax.lax.scan(step, first, length=ascent.steps)
    return log_spent(tables)


# ---------------------------------------------------------------------------------- enumeration


def _rows(
    objective,
    vocab: Vocab,
    length: int,
    nodes: int,
) -> _Rows:
    ids = enumeration.alphabet(vocab)
    number_XL = enumeration.all_sequences(len(ids) - 1, length)
    x_XL = ids[number_XL]
    X = len(x_XL)
    # Without a process the text itself is the only row.
    if objective.process is None:
        zero_X1 = np.zeros((X, 1), np.float32)
        batch, one_X = _batch(x_XL), np.ones(X)
        text_X = np.arange(X)
        return _Rows(batch, x_XL, zero_X1, one_X, text_X, X)

    # Every pair of a text and a noised sequence, at every time.
    times_T, weight_T = enumeration.times_and_weights(objective, length, nodes)
    states_ZL = enumeration.states(objective, vocab, length)
    texts = _batch(x_XL)
    text_R, z_RL = enumeration.support(objective, texts, states_ZL, times_T)
    time_T = times_T.astype(np.float32)
    t_R = np.tile(time_T, len(text_R))
    t_R1 = t_R[:, None]
    share_R = np.tile(weight_T, len(text_R))
    text_R = np.repeat(text_R, len(times_T), 0)
    z_RL = np.repeat(z_RL, len(times_T), 0)

    # Without those that are impossible at their time.
    batch = _batch(x_XL[text_R])
    log_q_RL = enumeration.log_q(objective, {}, batch, z_RL, t_R1)
    log_q_R = np.asarray(log_q_RL, np.float64).sum(-1)
    share_R = share_R * np.exp(log_q_R)
    possible = share_R > 0
    text_R = text_R[possible]
    batch = _batch(x_XL[text_R])
    z_RL, t_R1 = z_RL[possible], t_R1[possible]
    return _Rows(batch, z_RL, t_R1, share_R[possible], text_R, X)


def _batch(x_BL: np.ndarray) -> Batch:
    # Every position counts.
    ones_BL = np.ones(x_BL.shape, np.float32)
    index_B = np.arange(len(x_BL), dtype=np.int32)
    # NumPy's, until a compiled program reads them.
    arrays: Any = (x_BL, ones_BL, ones_BL > 0, index_B)
    return Batch(*arrays)


def _bound_nats(
    objective,
    rows: _Rows,
    net: Net,
) -> Array:
    """Returns the nats of each row."""
    z_RL = jnp.asarray(rows.z_RL)
    t_R1 = jnp.asarray(rows.t_R1)
    t_RL = jnp.broadcast_to(t_R1, z_RL.shape)
    nats_RL = objective.bound_nats(Models(net), rows.batch, z_RL, t_RL)
    return nats_RL.sum(-1)


# --------------------------------------------------------------------------------- the network


def _contexts(
    objective,
    rows: _Rows,
    vocab: Vocab,
    timed: bool,
) -> list[np.ndarray]:
    """Returns the number of the context of position i of row r, index_RL, for each network call.

    Equal numbers are equal contexts.
    """
    # The objective is run once with a network that only looks at its canvases.
    calls = []

    def net(canvas: Canvas) -> Output:
        calls.append(_numbered(canvas, vocab.mask, timed))
        logits_BLV = jnp.zeros((*canvas.z_BL.shape, vocab.size))
        return Output(Dense(logits_BLV))

    _bound_nats(objective, rows, net)
    return calls


def _numbered(
    canvas: Canvas,
    mask: int,
    timed: bool,
) -> np.ndarray:
    """Numbers the different contexts of a position, index_BL.

    A context is the position's index, the tokens that the visibility lets it attend to, and the
    row's other arrays.
    """
    B, L = canvas.z_BL.shape
    seen_BLM = np.asarray(views(canvas, mask))
    # Tokens, and those of a clean stream, are in `views` as the visibility allows.
    # What `views` shows does not count a second time.
    in_views: dict[str, Any] = dict(z_BL=None)
    if canvas.visibility.streams == 2:
        in_views["clean_BL"] = None
    if not timed:
        in_views["t_BL"] = None
    rest = replace(canvas, **in_views)
    # Every array of the row belongs to the context of each of its positions.
    arrays = jax.tree.leaves(rest)
    leaves = [np.asarray(array, np.float64) for array in arrays]
    columns = [leaf.reshape(B, -1) for leaf in leaves]
    rest_B1K = np.concatenate(columns, 1)[:, None]
    rest_BLK = np.broadcast_to(rest_B1K, (B, L, rest_B1K.shape[-1]))
    index_1L1 = np.arange(L)[None, :, None]
    index_BL1 = np.broadcast_to(index_1L1, (B, L, 1))
    # Two positions have the same number if all of this is equal.
    context_BLK = np.concatenate([index_BL1, seen_BLM, rest_BLK], -1)
    context_NK = context_BLK.reshape(B * L, -1)
    _, number_N = np.unique(context_NK, axis=0, return_inverse=True)
    return number_N.reshape(B, L)


def _table_net(
    tables: list[Array],
    contexts: list[np.ndarray],
    ids_V: np.ndarray,
    size: int,
) -> Net:
    """Returns a network whose n-th call reads its logits from the n-th table."""
    # Calls come in the order in which the contexts were numbered.
    remaining = iter(zip(tables, contexts, strict=True))

    def net(canvas: Canvas) -> Output:
        table, index_RL = next(remaining)
        # Ids that are never generated stay excluded.
        excluded_RLV = jnp.full((*index_RL.shape, size), -jnp.inf)
        logits_RLV = excluded_RLV.at[..., ids_V].set(table[index_RL])
        return Output(Dense(logits_RLV))

    return net
