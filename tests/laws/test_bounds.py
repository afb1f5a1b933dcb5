"""A bound is a bound: for every objective and schedule, by enumeration of z and quadrature in t.

With the oracle as denoiser Σ terms = −log p(x); with any denoiser Σ_x exp(−bound(x)) ≤ 1; the
estimates that a run reports agree with the enumerated values within the error they state.
"""

from dataclasses import dataclass
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Models, Output, UnbiasedLoss
from dlm.nn import config, transformer
from dlm.objectives.masked import Masked
from dlm.oracle.enumeration import exact_bound
from tests.laws import worlds as w

every_objective = w.first_of_each("member", w.OBJECTIVES)
every_absorbing = w.first_of_each("process", w.ABSORBING)
by_what_is_seen = w.first_of_each(
    "member",
    list({(c["name"], w.objective(c).visibility): c for c in w.OBJECTIVES}.values()),
)
by_estimate = w.first_of_each(
    "member", [c for c in w.TRAINED.values() if c in w.OBJECTIVES]
)
K = len(w.TABLES)
NODES = 48  # with 32 the geometric schedules miss


def _oracles(process):
    """The oracles of every world under a process that leaves no masks, then two random tables;
    compiled as one program.
    """
    oracles = [*(w.oracle(k, process) for k in range(3)), *[w.tables] * 2]

    def net(canvas):
        answers = [lambda canvas, ask=ask: ask(canvas).prediction for ask in oracles]
        return Output(
            jax.lax.switch(canvas.layout.segments_BL[0, 0] - 1, answers, canvas)
        )

    return net


@cache
def _bounds(objective):
    """bound_KX of every sequence under the oracle of every world and under two random tables."""
    if objective.process is not None and not objective.process.final:
        net = _oracles(objective.process)
        return np.stack(
            [
                exact_bound(
                    objective,
                    net,
                    w.X_XL,
                    w.VOCAB,
                    w.for_table(k, len(w.X_XL)),
                    nodes=NODES,
                )
                for k in range(K)
            ]
        )
    x_BL = np.tile(w.X_XL, (K, 1))
    layout = w.for_tables(K, len(w.X_XL))
    return exact_bound(objective, w.tables, x_BL, w.VOCAB, layout, nodes=NODES).reshape(
        K, -1
    )


def _exact(objective):
    """Has it the likelihood of a left-to-right model, in expectation at least?"""
    return objective.claims == "exact" or getattr(objective, "size", 0) == 1


@w.one_of_each
def test_every_member_says_what_it_claims(member):
    """What is no estimate of what is reported is of another type, so that nothing can take it for
    a likelihood.
    """
    objective, batch = (
        w.objective(member),
        w.batch_of(w.X_XL, marked_BL=np.ones_like(w.X_XL)),
    )
    assert objective.claims in ("exact", "bound") and objective.loss_claims in (
        objective.claims,
        "heuristic",
    )
    loss = jax.eval_shape(
        lambda: objective.loss(Models(w.tables), batch, jax.random.key(0))
    )
    assert isinstance(loss, UnbiasedLoss) == (objective.loss_claims == objective.claims)


@every_objective
def test_oracle_reaches_log_p(member):
    bound_KX = _bounds(w.objective(member))
    for k, world in enumerate(w.WORLDS):
        np.testing.assert_allclose(
            bound_KX[k], -np.log(w.law(world)), rtol=0, atol=1e-5
        )


@every_objective
def test_no_denoiser_spends_more_than_one(member):
    objective = w.objective(member)
    spent_K = np.exp(-_bounds(objective)).sum(-1)
    assert (spent_K <= 1 + 1e-5).all()
    if _exact(objective):
        np.testing.assert_allclose(spent_K, 1, atol=1e-5)
    else:
        assert (spent_K[3:] < 0.99).all(), (
            "random denoisers leave slack, else this test sees nothing"
        )


@every_absorbing
def test_schedules_do_not_change_the_bound(process):
    first = w.objective(dict(name="masked", process=w.ABSORBING[0]))
    np.testing.assert_allclose(
        _bounds(w.objective(dict(name="masked", process=process))),
        _bounds(first),
        rtol=1e-5,
    )


@every_objective
def test_a_fixed_count_does_not_change_the_bound(member):
    """What is reported of it has the value of what is trained, whatever the schedule; blocks of
    one are exact then.
    """
    own = w.objective(member)
    counted = own.counted()
    assert isinstance(own, Masked) != (counted is own), (
        "the others' bounds allow no count"
    )
    assert counted.counted() == counted and (
        counted is own or counted.pattern == "count"
    )
    np.testing.assert_allclose(_bounds(counted), _bounds(own), rtol=1e-5)


def test_a_grid_of_times_has_a_bound_of_its_own():
    for name in ("masked", "block", "span", "prism"):
        assert w.objective(dict(name=name, steps=4)).counted().steps == 4


@dataclass(frozen=True)
class DividedByMasked(Masked):
    """The mean over masked positions in the place of their weighted sum: the usual mistake."""

    def bound_nats(self, models, batch, z_BL, t_B):
        return super().bound_nats(models, batch, z_BL, t_B) / jnp.maximum(
            (z_BL == self.vocab.mask).sum(-1, keepdims=True), 1
        )


@dataclass(frozen=True)
class Unweighted(Masked):
    """Plain cross-entropy of what is masked."""

    def bound_nats(self, models, batch, z_BL, t_BL):
        prediction = self.read(models, batch, z_BL, t_BL).prediction
        return self.nats("flat", prediction, batch, z_BL, t_BL)


@pytest.mark.parametrize("wrong", [DividedByMasked, Unweighted])
def test_a_wrong_weight_is_seen(wrong):
    bound_KX = _bounds(wrong(process=w.process(w.ABSORBING[0]), vocab=w.VOCAB))
    assert np.exp(-bound_KX[0]).sum() > 1.1
    assert np.abs(bound_KX[0] + np.log(w.law(w.WORLDS[0]))).max() > 0.1


@by_what_is_seen
def test_a_random_transformer_spends_at_most_one(member):
    """A network conditioned on time, so the bound is no longer the same for every schedule; it is
    still a bound.
    """
    attention = config.Attention(heads=2, kv_heads=1, head_size=4)
    model = transformer.Transformer(
        config.ModelConfig(
            1, 8, attention, config.FFN(width=8), time="adaln", vocab=w.VOCAB
        )
    )
    shapes = jax.eval_shape(lambda: transformer.initialise(model, jax.random.key(0)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda p: jnp.asarray(0.7 * rng.normal(size=p.shape), jnp.float32), shapes
    )
    spent = np.exp(
        -exact_bound(
            w.objective(member),
            transformer.net_of(model, params),
            w.X_XL,
            w.VOCAB,
            nodes=24,
        )
    ).sum()
    assert 1e-3 < spent <= 1 + 1e-5


@pytest.mark.slow
def test_given_positions_condition_the_bound():
    """With the oracle and x_1 given: −log p(x_2, x_3 | x_1)."""
    noisable_XL = np.broadcast_to(np.arange(w.L) > 0, w.X_XL.shape)
    p_X = w.law(w.WORLDS[0])
    first_V = p_X.reshape(w.V, -1).sum(-1)
    names = ("ar", "masked", "block", "hybrid")
    for member in (
        next(m for m in w.OBJECTIVES if m["name"] == f"objectives.{name}")
        for name in names
    ):
        objective = w.objective(member)
        net = w.oracle(0, objective.process)
        bound_X = exact_bound(
            objective, net, w.X_XL, w.VOCAB, noisable_BL=noisable_XL, nodes=24
        )
        np.testing.assert_allclose(
            bound_X, -np.log(p_X / first_V[w.X_XL[:, 0]]), atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["masked", "block"])
def test_a_count_has_the_same_bound_whatever_is_given_in_a_row(name):
    """Rows with prompts of other lengths, none among them, have other numbers of positions to
    choose from.
    """
    noisable_XL = np.arange(w.L) >= (np.arange(len(w.X_XL)) % (w.L + 1))[:, None]
    own = w.objective(
        dict(name=name, process=dict(name="mask", schedule="cosine"))
        | (dict(size=2) if name == "block" else {})
    )
    table = w.for_table(3, len(w.X_XL))
    own_X, count_X = (
        exact_bound(o, w.tables, w.X_XL, w.VOCAB, table, noisable_BL=noisable_XL)
        for o in (own, own.counted())
    )
    np.testing.assert_allclose(count_X, own_X, rtol=1e-5)


# ------------------------------------------------------------------------------ discretised bound


@pytest.mark.slow
@pytest.mark.parametrize("process", w.LINEAR, ids=w.title)
def test_steps_cost_one_over_their_number(process):
    """Under p, the oracle's T-step bound lies above its continuous one.

    Fewer masks never make an exact posterior worse on average.

    A random denoiser has no such order, and its gap may have either sign; it still spends at most
    one and vanishes as 1/T.
    """

    def bound(steps):
        return _bounds(w.objective(dict(name="masked", process=process, steps=steps)))

    p_X = w.law(w.WORLDS[0])
    gap_TK = np.stack(
        [(bound(steps) - bound(0))[[0, 3]] @ p_X for steps in (8, 64, 128)]
    )
    assert (gap_TK[:, 0] > 0).all() and (np.diff(gap_TK[:, 0]) < 0).all()
    np.testing.assert_allclose(gap_TK[1] / gap_TK[2], 2, atol=0.15)
    assert (np.exp(-bound(8)).sum(-1) <= 1 + 1e-5).all()


# -------------------------------------------------------------------------------------- estimates

SEEDS = 300


@by_estimate
def test_the_reported_bound_and_the_loss(member):
    """Over many seeds the mean is the enumerated bound and the stated variance the spread, or
    somewhat above it (it errs on the safe side); for one seed the batch lies within four standard
    errors. The training loss has the same mean.
    """
    objective = w.objective(member)
    want_X = _bounds(objective)[3]
    batch = w.batch_of(w.X_XL, w.for_table(3, len(w.X_XL)), marked_BL=w.X_XL % 2)

    def both(key):
        return (
            objective.bound(Models(w.tables), batch, key, 8),
            objective.loss(Models(w.tables), batch, key),
        )

    bound, loss = jax.jit(jax.vmap(both))(jax.random.split(jax.random.key(0), SEEDS))
    nats_SX, variance_SX = (
        np.asarray(bound.nats_BL, np.float64).sum(-1),
        np.asarray(bound.variance_B, np.float64),
    )
    loss_S = np.asarray(loss.nats_sum, np.float64)
    assert (np.asarray(loss.weight_sum) == w.X_XL.size).all()
    if objective.claims == "exact":
        np.testing.assert_allclose(
            nats_SX, np.broadcast_to(want_X, nats_SX.shape), rtol=1e-5
        )
        np.testing.assert_allclose(loss_S, want_X.sum(), rtol=1e-5)
        assert (variance_SX == 0).all()
        return
    spread_X = nats_SX.var(0, ddof=1)
    assert np.abs((nats_SX.mean(0) - want_X) / np.sqrt(spread_X / SEEDS)).max() < 4
    assert 0.95 < variance_SX.mean() / spread_X.mean() < 1.6
    assert abs((nats_SX[0] - want_X).sum()) < 4 * np.sqrt(variance_SX[0].sum())
    if objective.loss_claims == objective.claims:
        assert abs(loss_S.mean() - want_X.sum()) < 4 * loss_S.std(ddof=1) / SEEDS**0.5


@every_objective
def test_gradients_are_finite_at_every_time(member):
    objective = w.objective(member)
    batch = w.batch_of(w.X_XL)
    absorbing = objective.process is not None and objective.process.final
    gone_BL = np.full_like(w.X_XL, w.VOCAB.mask) if absorbing else (w.X_XL + 1) % w.V

    def total(scale, t):
        finite_KZLV = jnp.where(jnp.isfinite(w.TABLES), w.TABLES, 0.0)
        net = w.table_net(
            jnp.where(jnp.arange(w.VOCAB.size) < w.V, finite_KZLV[3:] * scale, -jnp.inf)
        )
        z_BL = batch.tokens_BL if objective.process is None else gone_BL
        return objective.bound_nats(
            Models(net), batch, z_BL, jnp.full(z_BL.shape, t)
        ).sum()

    grads = jax.jit(jax.vmap(jax.grad(total), (None, 0)))(
        jnp.ones((len(w.Z_ZL), w.L, w.VOCAB.size)), jnp.array([1e-6, 0.5, 1.0])
    )
    assert np.isfinite(grads).all() and np.abs(grads).max() > 0
