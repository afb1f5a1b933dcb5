"""Times, patterns, couplings and weights are axes of their own.

What is built has the bound's mean or is a heuristic, else refused.
"""

import dataclasses
import itertools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Dense, Layout, Models, Output
from dlm.core.errors import UserError
from dlm.oracle.enumeration import exact_bound
from tests.laws import worlds as w

STEMS = w.listed("objectives")


def combinations(stem):
    """Every way to set the fields of a member that are choices, with noise of each kind."""
    cls = type(w.objective(dict(name=stem)))
    hints = typing.get_type_hints(cls)
    fields = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    choices = {
        name: typing.get_args(h)
        for name, h in fields.items()
        if typing.get_origin(h) is typing.Literal
    }
    noises = [
        dict(name="mask"),
        dict(name="mask", schedule="cosine"),
        dict(name="uniform"),
        dict(name="hybrid"),
    ]
    choices |= {"process": noises} if "process" in fields else {}
    for values in itertools.product(*choices.values()):
        yield dict(name=stem) | dict(zip(choices, values, strict=True))


@pytest.mark.parametrize("stem", STEMS)
def test_each_combination_is_built_or_refused_by_name(stem):
    built = refused = 0
    for config in combinations(stem):
        try:
            objective = w.objective(config)
        except UserError as error:
            refused += 1
            named = [
                k
                for k, v in config.items()
                if k != "name" and (f"{k}=" in str(error) or f"{k}.name=" in str(error))
            ]
            assert named, f"{error} does not name what is wrong with {config}"
        else:
            built += 1
            assert objective.loss_claims in (objective.claims, "heuristic")
            if config.get("weights", "bound") != "bound":
                assert objective.loss_claims == "heuristic"
    assert built and (refused or stem not in ("masked", "block", "hybrid"))


SEEDS = 400
ESTIMATES = [  # any two choices meet in one of the first four
    dict(
        name="masked", times="stratified", pattern="bernoulli", coupling="complementary"
    ),
    dict(name="masked", times="stratified", pattern="count", coupling="single"),
    dict(name="masked", times="importance", pattern="bernoulli", coupling="single"),
    dict(name="masked", times="importance", pattern="count", coupling="complementary"),
    dict(name="block", size=2, pattern="count", coupling="complementary"),
    dict(name="hybrid", times="importance"),
    dict(name="partition", times="antithetic"),
]


STEP = 0.05
FINITE = np.isfinite(w.TABLES[3])
DIRECTION = np.where(
    FINITE, np.random.default_rng(5).normal(size=FINITE.shape), 0.0
).astype(np.float32)
NEAR = w.table_net(
    np.stack(
        [
            np.where(FINITE, w.TABLES[3] + s * DIRECTION, -np.inf)
            for s in (0, STEP, -STEP)
        ]
    ).astype(np.float32)
)


@pytest.mark.slow
@pytest.mark.parametrize("config", ESTIMATES, ids=w.title)
def test_what_is_called_an_estimate_has_the_mean_of_the_bound_and_its_gradient(config):
    """Along a random direction of the network's logits, by differences of the enumerated bound.
    Also with times drawn where costs were large: importance is given a lopsided memory.
    """
    objective, x_XL = w.objective(config), w.X_XL[1::2]
    n, layout = len(x_XL), w.for_tables(3, len(x_XL))
    want, above, below = (
        exact_bound(objective, NEAR, np.tile(x_XL, (3, 1)), w.VOCAB, layout)
        .reshape(3, n)
        .sum(1)
    )
    square_T = (np.linspace(3, 0.1, 32) ** 4).astype(np.float32)
    batch = w.batch_of(x_XL)

    def loss(s, key):
        table_ZLV = jnp.where(
            FINITE, jnp.where(FINITE, w.TABLES[3], 0.0) + s * DIRECTION, -jnp.inf
        )
        models = Models(w.table_net(table_ZLV[None]), statistics=square_T)
        return objective.loss(models, batch, key).nats_sum

    both = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: jax.jvp(lambda s: loss(s, key), (0.0,), (1.0,)), keys
        )
    )
    for measured_S, expected in zip(
        both(jax.random.split(jax.random.key(1), SEEDS)),
        (want, (above - below) / (2 * STEP)),
        strict=True,
    ):
        measured_S = np.asarray(measured_S, np.float64)
        assert (
            abs(measured_S.mean() - expected) < 4 * measured_S.std(ddof=1) / SEEDS**0.5
        )


def test_a_complement_of_a_count_masks_the_rest_and_never_nothing():
    objective = w.objective(
        dict(name="masked", pattern="count", coupling="complementary")
    )
    batch = w.batch_of(np.tile(w.X_XL, (4, 1)))
    views = jax.jit(
        lambda batch: [canvas.z_BL for canvas in recorded(objective, batch)]
    )(batch)
    one_BL, other_BL = (np.asarray(z_BL) == w.VOCAB.mask for z_BL in views)
    whole_B = one_BL.all(1)
    assert (
        (other_BL[whole_B]).all()
        and ((one_BL ^ other_BL)[~whole_B]).all()
        and 0.2 < whole_B.mean() < 0.5
    )
    assert (np.bincount(one_BL.sum(1), minlength=4) > 0)[1:].all() and one_BL.any(
        1
    ).all()


def recorded(objective, batch, table=0):
    """What the network is given in a training step."""
    seen = []

    def net(canvas):
        seen.append(canvas)
        layout = w.for_table(table, len(batch.tokens_BL))
        # The table rides in the segments; blocks and groups stay.
        layout = dataclasses.replace(canvas.layout, segments_BL=layout.segments_BL)
        return w.tables(dataclasses.replace(canvas, layout=layout))

    objective.loss(Models(net), batch, jax.random.key(0))
    return seen


@pytest.mark.parametrize("stem", STEMS)
def test_the_cost_of_a_step_is_told_as_it_is(stem):
    for config in [dict(name=stem)] + [
        c for c in combinations(stem) if c.get("coupling") == "complementary"
    ][:1]:
        objective, batch = w.objective(config), w.batch_of(w.X_XL, marked_BL=w.X_XL % 2)
        seen = jax.eval_shape(
            lambda objective=objective, batch=batch: recorded(objective, batch)
        )
        assert objective.token_passes == sum(
            1 if canvas.clean_BL is None else 2 for canvas in seen
        )


@pytest.mark.slow
def test_a_network_is_told_the_share_that_is_masked():
    batch = w.batch_of(w.X_XL)
    batch = dataclasses.replace(
        batch, noisable_BL=batch.noisable_BL & (jnp.arange(w.L) > 0)
    )
    for config in (
        dict(name="masked", pattern="count"),
        dict(name="proseco", pattern="count"),
        dict(name="block", size=3, pattern="count"),
    ):
        canvas = jax.jit(
            lambda batch, objective=w.objective(config): recorded(objective, batch)[0]
        )(batch)
        share_BL = np.asarray(canvas.z_BL == w.VOCAB.mask).sum(1, keepdims=True) / 2
        np.testing.assert_allclose(
            np.asarray(canvas.t_BL),
            np.broadcast_to(share_BL, canvas.t_BL.shape),
            atol=1e-6,
        )
        assert {0.5, 1.0} == set(share_BL.ravel())


def test_weights_that_look_at_kept_neighbours():
    """½ Σ_{j kept} p (1 − p)^(|i − j| − 1), p = 0.3, over kept tokens of the same segment that
    count.
    """
    x_BL = np.zeros((1, 6), np.int32)
    z_BL = np.where(np.arange(6) == 2, w.VOCAB.mask, x_BL)
    z_BL[0, 4] = w.VOCAB.mask
    batch = w.batch_of(x_BL, Layout(np.array([[1, 1, 1, 1, 1, 2]])))
    batch = dataclasses.replace(batch, weights_BL=batch.weights_BL.at[0, 1].set(0.0))

    def half(canvas):
        return Output(Dense(jnp.zeros((1, 6, w.VOCAB.size))))

    objective = w.objective(dict(name="masked", weights="context"))
    t_BL = jnp.full((1, 6), 0.5)
    nats_BL, _ = jax.jit(
        lambda z_BL: objective.view_nats(Models(half), batch, None, z_BL, t_BL)
    )(z_BL)

    def near(*distances):
        return sum(0.5 * 0.3 * 0.7 ** (d - 1) for d in distances)

    want = np.array([0, 0, near(2, 1), 0, near(4, 1), 0]) * np.log(w.VOCAB.size)
    np.testing.assert_allclose(nats_BL[0], want, rtol=1e-5)


def test_dynamic_weights_of_hybrid_noise():
    """2 on masks, 1 on noise, B/n √((1 − α)/α) on what is kept, each times KL + r − log r − 1."""
    objective = w.objective(
        dict(name="hybrid", weights="dynamic", process=dict(name="hybrid", uniform=0.5))
    )
    noise, t, n = objective.process, jnp.full((1, 3), 0.3), w.V
    x_BL, z_BL = np.array([[0, 1, 2]]), np.array([[w.VOCAB.mask, 2, 2]])
    stated_p_V = np.where(
        np.arange(w.VOCAB.size) < n, [0.5, 0.3, 0.2] + [0.0] * (w.VOCAB.size - n), 0
    )

    def stated_p(canvas):
        return Output(
            Dense(jnp.log(jnp.asarray(stated_p_V))[None, None] + jnp.zeros((1, 3, 1)))
        )

    prediction, one_BL = stated_p(None).prediction, jnp.ones(x_BL.shape)
    measured_L = np.asarray(
        jax.jit(objective._dynamic)(prediction, x_BL, z_BL, t, one_BL)
    )[0]
    alpha, uniform = float(noise.alpha(0.3)), float(noise.noise_probs(0.3)[1])

    def laws(p_V):
        return alpha * np.asarray(p_V, np.float64)[:n] + uniform / n

    for i, weight in enumerate(
        (2.0, 1.0, min(noise.ratio / n * ((1 - alpha) / alpha) ** 0.5, 1))
    ):
        q_V, p_V = laws(np.eye(w.VOCAB.size)[int(x_BL[0, i])]), laws(stated_p_V)
        kl = (q_V * np.log(q_V / p_V)).sum()  # the masks' shares are equal
        ratio = 1.0 if i == 0 else q_V[int(z_BL[0, i])] / p_V[int(z_BL[0, i])]
        np.testing.assert_allclose(
            measured_L[i], weight * (kl + ratio - np.log(ratio) - 1), rtol=1e-4
        )
