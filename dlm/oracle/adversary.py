"""The adversary: gradient ascent on the mass that a bound spends, over every network there could be.

    spent = sup over networks of Σ_x exp(−bound(x))          at most 1 for a bound, above 1 it is none

A random network wastes so much mass that a wrong bound still sums below 1. So the worst network is trained. It is a free table of logits,
with one row for everything that a position can be shown. x and z are enumerated, t runs over quadrature nodes.

It sees what is charged too little. What is charged too much is seen by the other law, bound = −log p with the oracle.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dlm.core.contracts import Batch, Canvas, Dense, Net, Output
from dlm.oracle import enumeration
from dlm.oracle.world import views


@dataclass(frozen=True)
class _Rows:
    """Every (x, z, t) with a chance: the rows of one batch."""

    batch: Batch
    z_RL: np.ndarray
    t_R1: np.ndarray
    share_R: np.ndarray  # quadrature weight × q(z | x)
    text_R: np.ndarray  # number of x
    texts: int


def spent(
    objective, vocab, length: int, *, nodes=12, steps=500, starts=3, rate=0.3, seed=0, timed=False
) -> float:
    """Returns the greatest Σ_x exp(−bound(x)) that Adam finds from `starts` random tables of spread 2.

    The learning rate falls as rate·(1 − k/steps)^½. A `timed` network also sees the time, so its table has a row for each node too.
    """
    rows = _rows(objective, vocab, length, nodes)
    shown = _shown(objective, rows, vocab, timed)
    ids_V = enumeration.alphabet(vocab)[:-1]
    sizes = [int(index_RL.max()) + 1 for index_RL in shown]

    def log_spent(tables: list[jax.Array]) -> jax.Array:
        nats_R = _bound_nats(objective, rows, _looked_up(tables, shown, ids_V, vocab.size))
        nats_X = jax.ops.segment_sum(rows.share_R * nats_R, rows.text_R, rows.texts)
        return jax.nn.logsumexp(-nats_X)

    optimizer = optax.adam(lambda k: rate * jnp.sqrt(1 - k / steps))

    def climb(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(sizes))
        tables = [
            2 * jax.random.normal(k, (size, len(ids_V)))
            for k, size in zip(keys, sizes, strict=True)
        ]

        def step(carry, _):
            tables, state = carry
            gradient = jax.grad(lambda tables: -log_spent(tables))(tables)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(tables, updates), state), None

        (tables, _), _ = jax.lax.scan(step, (tables, optimizer.init(tables)), length=steps)
        return log_spent(tables)

    reached_S = jax.jit(lambda keys: jax.lax.map(climb, keys))(
        jax.random.split(jax.random.key(seed), starts)
    )
    return float(np.exp(np.asarray(reached_S, np.float64).max()))


def _rows(objective, vocab, length: int, nodes: int) -> _Rows:
    ids = enumeration.alphabet(vocab)
    x_XL = ids[enumeration.all_sequences(len(ids) - 1, length)]
    batch = _batch(x_XL)
    if objective.process is None:
        ones_R = np.ones(len(x_XL))
        return _Rows(
            batch,
            x_XL,
            np.zeros((len(x_XL), 1), np.float32),
            ones_R,
            np.arange(len(x_XL)),
            len(x_XL),
        )
    times_T, weight_T = enumeration.times_and_weights(objective, length, nodes)
    text_R, z_RL = enumeration.support(
        objective, batch, enumeration.states(objective, vocab, length), times_T
    )
    t_RT = np.tile(times_T.astype(np.float32), len(text_R))[:, None]
    share_RT = np.tile(weight_T, len(text_R))
    text_RT, z_RTL = (np.repeat(a, len(times_T), 0) for a in (text_R, z_RL))
    log_q_R = np.asarray(
        enumeration.log_q(objective, _batch(x_XL[text_RT]), z_RTL, t_RT), np.float64
    ).sum(-1)
    share_RT = share_RT * np.exp(log_q_R)
    kept = share_RT > 0
    text_R = text_RT[kept]
    return _Rows(_batch(x_XL[text_R]), z_RTL[kept], t_RT[kept], share_RT[kept], text_R, len(x_XL))


def _batch(x_BL: np.ndarray) -> Batch:
    ones_BL = np.ones(x_BL.shape, np.float32)
    return Batch(x_BL, ones_BL, ones_BL > 0, np.arange(len(x_BL), dtype=np.int32))


def _bound_nats(objective, rows: _Rows, net: Net) -> jax.Array:
    """nats_R of each row."""
    t_RL = jnp.broadcast_to(jnp.asarray(rows.t_R1), rows.z_RL.shape)
    return objective.bound_nats(net, rows.batch, jnp.asarray(rows.z_RL), t_RL).sum(-1)


def _shown(objective, rows: _Rows, vocab, timed: bool) -> list[np.ndarray]:
    """For each call of the network, the number of what position i of row r is shown, index_RL: equal numbers for equal sights."""
    calls = []

    def net(canvas: Canvas) -> Output:
        calls.append(_sights(canvas, vocab.mask, timed))
        return Output(Dense(jnp.zeros((*canvas.z_BL.shape, vocab.size))))

    _bound_nats(objective, rows, net)
    return calls


def _sights(canvas: Canvas, mask: int, timed: bool) -> np.ndarray:
    """Numbers the different things that a position is shown, index_BL.

    They are its index, the tokens that the visibility lets it see, and the row's other arrays.
    """
    B, L = canvas.z_BL.shape
    seen_BLM = np.asarray(views(canvas, mask))
    # Tokens, and those of a clean stream, are shown by `views` as the visibility allows.
    rest = replace(canvas, z_BL=None)
    if canvas.visibility.streams == 2:
        rest = replace(rest, clean_BL=None)
    if not timed:
        rest = replace(rest, t_BL=None)
    arrays = jax.tree.leaves(rest)
    rest_BK = np.concatenate([np.asarray(x, np.float64).reshape(B, -1) for x in arrays], 1)
    rest_BLK = np.broadcast_to(rest_BK[:, None], (B, L, rest_BK.shape[1]))
    index_BL1 = np.broadcast_to(np.arange(L)[None, :, None], (B, L, 1))
    all_NK = np.concatenate([index_BL1, seen_BLM, rest_BLK], -1).reshape(B * L, -1)
    return np.unique(all_NK, axis=0, return_inverse=True)[1].reshape(B, L)


def _looked_up(
    tables: list[jax.Array], shown: list[np.ndarray], ids_V: np.ndarray, size: int
) -> Net:
    """A network whose n-th call reads its logits from the n-th table."""
    remaining = iter(zip(tables, shown, strict=True))

    def net(canvas: Canvas) -> Output:
        table, index_RL = next(remaining)
        logits_RLV = jnp.full((*index_RL.shape, size), -jnp.inf).at[..., ids_V].set(table[index_RL])
        return Output(Dense(logits_RLV))

    return net
