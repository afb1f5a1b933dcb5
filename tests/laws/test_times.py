"""Times.

Each kind is uniform, keeps its promise, and depends on the sample's number alone; none changes the
mean of a loss.
"""

import dataclasses
import typing
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Models
from dlm.noise import time_sampling
from dlm.oracle.enumeration import exact_bound
from tests.laws import worlds as w

KINDS = typing.get_args(time_sampling.Kind)
every_kind = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(k, marks=() if k == "stratified" else pytest.mark.slow)
        for k in KINDS
    ],
)
B = 8


def _times(kind, index_B, key, parts):
    """u_BP: positions are the parts."""
    x_BP = jnp.zeros((len(index_B), parts), int)
    batch = dataclasses.replace(w.batch_of(x_BP, total=B), index_B=index_B)
    part_BP = jnp.broadcast_to(jnp.arange(parts), x_BP.shape) if parts > 1 else None
    if kind == "importance":  # its density is another test's
        kind = "stratified"
    return time_sampling.draw(kind, batch, key, part_BL=part_BP)[0]


@cache
def _draw(kind, parts):
    return jax.jit(
        lambda keys, index_B: jax.vmap(lambda key: _times(kind, index_B, key, parts))(
            keys
        )
    )


def draw_times(kind, index_B=range(B), seeds=1, parts=1, part=0):
    keys = jax.random.split(jax.random.key(1), seeds)
    return np.asarray(_draw(kind, parts)(keys, np.array([*index_B])))[..., part]


@every_kind
def test_each_time_is_uniform(kind):
    u_SB = draw_times(kind, seeds=2000)
    for b in (0, 1, B - 1):
        assert w.chi_square(np.histogram(u_SB[:, b], 20, (0, 1))[0], np.ones(20)) > 1e-4
    assert (
        (u_SB >= 0).all()
        and (u_SB <= 1).all()
        and len(np.unique(u_SB)) > 0.9 * u_SB.size / (2 if kind == "antithetic" else 1)
    )


@every_kind
def test_a_time_belongs_to_the_sample_not_to_its_place(kind):
    whole_B = draw_times(kind)[0]
    assert (draw_times(kind, [5, 2, 7])[0] == whole_B[[5, 2, 7]]).all()
    assert (draw_times(kind, range(B, 2 * B))[0] != whole_B).all(), (
        "the next batch has times of its own"
    )


@every_kind
def test_parts_have_times_of_their_own_whatever_their_number(kind):
    assert (draw_times(kind, parts=3, part=0) == draw_times(kind)).all() and (
        draw_times(kind, parts=3, part=2) == draw_times(kind, parts=4, part=2)
    ).all()
    last_SB = draw_times(kind, seeds=2000, parts=3, part=2)
    assert w.chi_square(np.histogram(last_SB[:, 1], 20, (0, 1))[0], np.ones(20)) > 1e-4
    assert (draw_times(kind, parts=3, part=1) != draw_times(kind)).all()


def test_times_of_importance_follow_the_density_that_costs_are_divided_by():
    costs_T = np.linspace(3, 0.1, time_sampling.BUCKETS) ** 2
    costs_T[5] = 0  # not seen yet: as if it cost what the others do on average
    u_BP = (np.arange(64_000)[None] + 0.5) / 64_000
    t_P, density_P = (
        np.asarray(a)[0]
        for a in time_sampling.importance_times(
            jnp.asarray(u_BP, jnp.float32), jnp.asarray(costs_T[None], jnp.float32)
        )
    )
    size_T = np.sqrt(np.where(costs_T > 0, costs_T, costs_T.sum() / 31))
    p_T = 0.9 * size_T / size_T.sum() + 0.1 / time_sampling.BUCKETS
    np.testing.assert_allclose(
        np.histogram(t_P, time_sampling.BUCKETS, (0, 1))[0] / t_P.size, p_T, atol=1e-4
    )
    np.testing.assert_allclose(
        density_P,
        time_sampling.BUCKETS * p_T[(t_P * time_sampling.BUCKETS).astype(int)],
        rtol=1e-4,
    )
    assert (np.diff(t_P) > 0).mean() > 0.99 and np.isclose(
        (1 / density_P).mean(), 1, atol=1e-3
    ), "all of [0, 1), in order"


def test_what_is_remembered_is_a_running_mean_of_squares():
    sums_2T = time_sampling.bucket_costs(
        jnp.array([0.0, 0.01, 0.5]), jnp.array([1.0, 3.0, 2.0])
    )
    once_T = time_sampling.updated_costs(time_sampling.initial_costs(), sums_2T)
    assert (
        np.flatnonzero(once_T).tolist() == [0, 16]
        and once_T[0] == 5
        and once_T[16] == 4
    )
    twice_T = time_sampling.updated_costs(
        once_T, time_sampling.bucket_costs(jnp.array([0.5]), jnp.array([6.0]))
    )
    assert twice_T[0] == 5 and np.isclose(twice_T[16], 0.95 * 4 + 0.05 * 36)


@pytest.mark.slow
def test_what_each_promises():
    assert (
        np.sort((draw_times("stratified", seeds=50) * B).astype(int), 1) == np.arange(B)
    ).all()
    u_P = draw_times("stratified", [3], parts=16, part=slice(None))[0, 0]
    assert np.diff(np.sort(np.append(u_P, u_P.min() + 1))).max() < 0.3, (
        "spread within a sample"
    )
    u_SB = draw_times("antithetic", seeds=50)
    np.testing.assert_allclose(u_SB[:, ::2] + u_SB[:, 1::2], 1, atol=1e-6)
    assert np.var(draw_times("iid", seeds=500).mean(1)) > 5 * np.var(
        draw_times("stratified", seeds=500).mean(1)
    )


def losses(seeds=600, **fields):
    """The batch's loss in nats for many keys."""
    objective = w.objective(dict(name="masked", **fields))
    batch = w.batch_of(w.X_XL, w.for_table(3, len(w.X_XL)))
    loss = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: objective.loss(Models(w.tables), batch, key).nats_sum, keys
        )
    )
    return np.asarray(loss(jax.random.split(jax.random.key(0), seeds)), np.float64)


@pytest.mark.slow
@every_kind
def test_times_do_not_change_the_mean_of_the_loss(kind):
    """Nor does a coupling: tests/laws/test_axes.py."""
    want = exact_bound(
        w.objective(dict(name="masked")),
        w.tables,
        w.X_XL,
        w.VOCAB,
        w.for_table(3, len(w.X_XL)),
    ).sum()
    nats_S = losses(times=kind)
    assert abs(nats_S.mean() - want) < 4 * nats_S.std(ddof=1) / 600**0.5


def recorded(train, batch):
    """(what a step returns, every z that its network is given)."""

    def step(key):
        seen = []

        def net(canvas):
            seen.append(canvas.z_BL)
            return w.tables(canvas)

        return train(Models(net), batch, key), seen

    return jax.tree.map(np.asarray, jax.jit(step)(jax.random.key(0)))


@pytest.mark.slow
def test_a_complement_masks_what_the_mask_leaves_and_no_more():
    objective = w.objective(dict(name="masked", coupling="complementary"))
    batch = dataclasses.replace(
        w.batch_of(w.X_XL),
        noisable_BL=jnp.asarray(np.arange(w.L) > 0) & jnp.ones(w.X_XL.shape, bool),
    )
    loss, seen = recorded(objective.loss, batch)
    one_BL, other_BL = (z_BL == w.VOCAB.mask for z_BL in seen)
    assert (
        (one_BL ^ other_BL)[:, 1:].all()
        and not (one_BL | other_BL)[:, 0].any()
        and 0 < one_BL.mean() < 2 / 3
    )
    assert (
        float(loss.metrics["masked_share"].value_sum) == len(w.X_XL)
        and float(loss.weight_sum) == w.X_XL.size
    )
    for wrong in (dict(steps=2), dict(process=dict(name="mask", schedule="cosine"))):
        with pytest.raises(w.UserError, match="coupling='complementary' needs"):
            w.objective(dict(name="masked", coupling="complementary", **wrong))


@pytest.mark.slow
def test_dropout_masks_that_share_of_the_input_and_leaves_what_is_reported():
    plain, noisy = (
        w.objective(dict(name="ar", dropout=share)) for share in (0.0, 0.25)
    )
    batch = w.batch_of(np.tile(w.X_XL, (20, 1)))
    bounds = [
        lambda *arguments, objective=objective: objective.bound(*arguments, 2)
        for objective in (plain, noisy)
    ]
    seen = [
        recorded(f, batch)[1][0] for f in (plain.loss, bounds[0], noisy.loss, bounds[1])
    ]
    shares = [float((z_BL == w.VOCAB.mask).mean()) for z_BL in seen]
    assert shares[0] == shares[1] == shares[3] == 0 and shares[2] == pytest.approx(
        0.25, abs=0.03
    )
    assert (
        np.asarray(seen[2])[np.asarray(seen[2]) != w.VOCAB.mask]
        == np.asarray(batch.tokens_BL)[np.asarray(seen[2]) != w.VOCAB.mask]
    ).all()
    with pytest.raises(w.UserError, match="dropout=1.0 must be in"):
        w.objective(dict(name="ar", dropout=1.0))
