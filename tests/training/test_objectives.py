"""Every objective in a real run.

An update, its bound, a sample, a checkpoint; and what is particular to some of them.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dlm
from dlm.app.context import RunContext
from dlm.app.experiment import Experiment
from dlm.core.config import build_member
from dlm.core.contracts import Dense, Models, Output
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.evals.bound import HeldOut
from dlm.evals.exact import replayed
from dlm.nn.visibility.causal import Causal
from dlm.objectives.block import _next
from dlm.runs import checkpoint
from dlm.samplers import plan
from dlm.samplers.plan import Sampler
from dlm.samplers.requests import Request
from tests import tiny

pytestmark = pytest.mark.slow
POLYNOMIAL, NAN = dict(name="polynomial"), float("nan")
KIN = (
    "priority",
    "proseco",
    "span",
)  # their bound and their samples are masked's, by one program (tests/laws/test_relations.py)
STEMS = sorted(
    p.stem
    for p in (Path(dlm.__file__).parent / "objectives").glob("*.py")
    if p.stem not in ("__init__", "base")
)
LATENT = dict(
    heads=2, latent=dict(kv_rank=6, nope=4, rope=2, value=4)
)  # `nn.latent_attention`
GIVEN = dict(
    ar=dict(sampler=dict(steps=1, block=1), nn__attention=LATENT),
    any_order=dict(sampler=dict(steps=1)),
    block=dict(
        objective=dict(
            name="block", size=8, context="causal", auxiliary=0.5, block_warmup=0.5
        ),
        sampler=dict(steps=2),
    ),
    hybrid=dict(objective=dict(name="hybrid", times="importance")),
    learned=dict(nn__time="adaln"),
    prism=dict(nn__heads=("quality",), sampler=dict(steps=2, remask="quality")),
    masked=dict(objective=dict(name="masked", times="importance", pattern="count")),
)


def experiment(corpus, stem, **changes):
    built = (
        dict(
            nn__layers=1,
            data__marked_characters="aeiou",
            sampler=dict(steps=2),
            objective=stem,
        )
        | GIVEN.get(stem, {})
        | changes
    )
    run = build_run(tiny.recipe(corpus, **built))
    return Experiment(run, run.text.fit(()))


def updated(built, count=2):
    state, batches = built.new_state(), built.batches(0)
    for _ in range(count):
        state, sums = built.update(state, next(batches))
    return state, sums


@pytest.mark.parametrize("stem", STEMS)
def test_it_trains_is_scored_draws_and_is_restored(stem, corpus, tmp_path):
    built = experiment(corpus, stem)
    state, sums = updated(built)
    assert ("nats_sum" in sums) == (
        built.objective.loss_claims == built.objective.claims
    ) and not sums["skipped_sum"]
    if stem not in KIN:
        scored_and_drawn(built, state)
    store = checkpoint.Store(tmp_path)
    store.save(2, state)
    store.close()
    other = checkpoint.Store(tmp_path)
    tiny.identical(
        jax.tree.leaves(other.restore(built.abstract_state(), 2)),
        jax.tree.leaves(state),
    )
    other.close()


def scored_and_drawn(built, state):
    subject = RunContext(built, state.averaged, built.run.data.source)
    (_, bits, _), _ = HeldOut(samples=2, windows=8).run(subject, 2)
    assert 2 < bits < 14
    replies = subject.generate([("ab", 6), (5,)])
    vocab = built.run.nn.vocab
    assert all(
        r.ids[r.frozen].tolist() == [*b"ab"][: r.frozen.sum()]
        and vocab.mask not in r.ids
        for r in replies
    )


def test_importance_learns_where_costs_are_large_whatever_the_microbatches(corpus):
    whole, parts = (
        updated(experiment(corpus, "masked", optim__microbatches=n), 3)[0].memory
        for n in (1, 2)
    )
    tiny.close(whole, parts, 1e-3)
    assert (whole > 0).sum() > 8 and whole.shape == (32,)


def test_a_judge_of_tokens_learns_from_what_it_drew(corpus):
    """BCE at k masks that were filled from the model's own prediction, and nowhere else."""
    built = experiment(corpus, "prism")
    objective, batch = (
        dataclasses.replace(built.objective, tokens=3),
        next(built.batches(0)),
    )
    params, key = built.new_state().params, jax.random.key(0)
    params = jax.tree.map(lambda p: p + 0.01, params)
    models = built.models(params)
    t_BL = jnp.full(batch.tokens_BL.shape, 0.6)
    z_BL = objective.corrupt(models, batch, key, t_BL)
    both_BL, _ = objective.view_nats(models, batch, key, z_BL, t_BL)
    cost_BL = both_BL - objective.bound_nats(models, batch, z_BL, t_BL)
    prediction = objective.read(models, batch, z_BL, t_BL).prediction
    judged_BL, y_BL = objective.fill_some(prediction, batch, z_BL, key)
    masked_BL = (z_BL == built.run.nn.vocab.mask) & (batch.weights_BL > 0)
    assert (judged_BL.sum(1) == jnp.minimum(masked_BL.sum(1), 3)).all() and (
        masked_BL | ~judged_BL
    ).all()
    assert ((y_BL != z_BL) == judged_BL).all()
    logits_BL = objective.read(models, batch, y_BL, t_BL).heads["quality"]
    logit_BL = np.asarray(logits_BL, np.float64)
    wrong_BL = np.where(y_BL == batch.tokens_BL, -logit_BL, logit_BL)
    np.testing.assert_allclose(
        cost_BL, np.where(judged_BL, np.logaddexp(0, wrong_BL), 0.0), atol=1e-4
    )
    assert np.abs(logit_BL).max() > 0.01
    with pytest.raises(UserError, match="set config.nn.heads"):
        updated(experiment(corpus, "prism", nn__heads=()))


def test_schedules_of_tokens_move_and_shape_the_noise(corpus):
    built = experiment(corpus, "learned")
    state, _ = updated(built)
    power_V = np.asarray(state.params["objective"]["power_V"])
    assert (np.abs(power_V[: built.run.nn.vocab.eos]) > 0).any()
    learned_V = built.process_of(state.params).power_V
    assert (np.asarray(learned_V) != np.asarray(built.objective.process.power_V)).any()
    far = {
        **state.params,
        "objective": {
            "power_V": jnp.where(jnp.arange(len(power_V)) == ord("e"), -4.0, 2.0)
        },
    }
    batch = next(built.batches(0))
    t_BL = jnp.full(batch.tokens_BL.shape, 0.5)
    models = built.models(far)
    z_BL = np.asarray(built.objective.corrupt(models, batch, jax.random.key(0), t_BL))
    x_BL = np.asarray(batch.tokens_BL)
    masked_BL = (z_BL == built.run.nn.vocab.mask) & np.asarray(batch.noisable_BL)
    assert (
        masked_BL[x_BL == ord("e")].mean() > 0.6
        and masked_BL[(x_BL != ord("e")) & np.asarray(batch.noisable_BL)].mean() < 0.1
    )


@pytest.mark.parametrize("stem", ["any_order", "block", "ar", "partition"])
def test_a_network_that_is_told_the_time_is_told_the_same_in_training_and_when_it_decides(
    stem, corpus
):
    """From left to right, one position at a time.

    What training charges is what the replayed sampler pays.
    """
    options = (
        dict(objective=dict(name="block", size=1, pattern="count"))
        if stem == "block"
        else {}
    )
    built = experiment(corpus, stem, nn__time="adaln", **options)
    params, batch = (
        tiny.random_params(built.run.nn, scale=0.3),
        tiny.batch(tiny.tokens(2, 6)),
    )
    net, models = built.net(params), built.models(params)
    order_BL = jnp.broadcast_to(jnp.arange(6), (2, 6))
    z_BL = dict(
        any_order=order_BL,
        block=jnp.full((2, 6), built.run.nn.vocab.mask),
        ar=batch.tokens_BL,
    ).get(stem)
    training_nats_BL = (
        both_groups(built, models, batch)
        if stem == "partition"
        else built.objective.bound_nats(models, batch, z_BL, jnp.zeros((2, 6)))
    )
    if stem == "ar":
        replayed_nats = built.objective.bound(
            models, batch, jax.random.key(0), 2
        ).nats_BL
    else:
        steps = 6 if stem == "partition" else 4
        sampler = plan.resolve(
            Sampler(rule=build_member("ordered", "samplers.rules"), steps=steps),
            built.objective.process,
            built.objective.visibility,
        )
        replayed_nats, passes = replayed(
            net,
            sampler,
            built.objective.process,
            built.objective.visibility,
            batch,
            jax.random.key(0),
        )
        assert passes == 6, "blocks of one waste no pass"
    tiny.close(training_nats_BL, replayed_nats, 1e-4)


def both_groups(built, models, batch):
    """What each token costs when those before it are the one group and the rest is the other,
    whichever of the two is M.
    """
    nats_BL, place_L = [], jnp.arange(6)
    for i in range(6):
        known_L, ways = place_L < i, []
        for requested_L, t in ((~known_L, 1 - i / 6), (known_L, i / 6)):
            z_BL = jnp.where(requested_L, built.run.nn.vocab.mask, batch.tokens_BL)
            ways.append(
                built.objective.bound_nats(models, batch, z_BL, jnp.full((2, 6), t))[
                    :, i
                ]
                * 2
                * (1 - i / 6)
            )
        tiny.close(*ways, 1e-4)
        nats_BL.append(ways[0])
    return jnp.stack(nats_BL, 1)


def test_what_a_model_cannot_see_it_is_not_asked(corpus):
    for stem in ("any_order", "block"):
        subject = RunContext(experiment(corpus, stem), None, None)
        with pytest.raises(UserError, match="does not see the text after the hole"):
            subject.experiment.generator(
                tiny.random_params(subject.experiment.run.nn),
                subject.experiment.run.sampler,
            )([Request(("ab", 4, "cd"))])


@pytest.mark.parametrize(
    "config, why",
    [
        (
            dict(
                name="masked", process=dict(schedule=dict(name="polynomial", power=0.2))
            ),
            "power=0.2 must be from 0.5",
        ),
        (
            dict(
                name="hybrid",
                process=dict(name="uniform", schedule=dict(POLYNOMIAL, power=NAN)),
            ),
            "process.schedule.power must be of type float, not nan",
        ),
        (dict(name="learned", times="importance"), "times='importance'"),
        (dict(name="priority", times="importance"), "times='importance'"),
        (dict(name="block", clip=(0.3, 0.8), steps=4), "clip="),
        (dict(name="block", clip=(0.3, 0.8), coupling="complementary"), "clip="),
        (dict(name="block", auxiliary=0.5), "context='causal'"),
        (
            dict(name="priority", strength=float("inf")),
            "strength must be of type float, not inf",
        ),
        (
            dict(name="proseco", correction=float("nan")),
            "correction must be of type float, not nan",
        ),
    ],
)
def test_what_means_nothing_is_refused_by_name(config, why):
    with pytest.raises(UserError, match=why):
        build_member(config, "objectives", tiny.VOCAB)


# ----------------------------------------------------------------------------------------- blocks


def test_blocks_grow_and_their_times_are_clipped():
    built = build_member(
        dict(name="block", size=8, block_warmup=0.5, clip=(0.3, 0.8), times="iid"),
        "objectives",
        tiny.VOCAB,
    )
    batch = tiny.batch(tiny.tokens(4, 16))
    sizes = []
    for progress in (0.0, 0.13, 0.26, 0.4, 0.5, 1.0):
        models = Models(None, progress=jnp.float32(progress))
        t_BL = np.asarray(built.draw_times(models, batch, jax.random.key(0))[0])
        group_BL = np.asarray(built.count_groups(batch, models.progress))
        sizes.append(int(np.unique(group_BL[0], return_counts=True)[1][0]))
        assert (t_BL >= 0.3).all() and (t_BL <= 0.8).all()
        assert (
            len({(g, t) for g, t in zip(group_BL[0], t_BL[0], strict=True)})
            == 16 // sizes[-1]
        ), "one time for each block"
    assert (
        sizes == [1, 2, 4, 8, 8, 8]
        and int(np.asarray(built.count_groups(batch))[0, 8]) == 8
    ), "what is reported has blocks of their size"


def test_the_auxiliary_loss_is_that_of_the_next_token():
    config, x_BL = tiny.model_config(), tiny.tokens(2, 6)
    batch = tiny.batch(
        x_BL,
        segments_BL=[[1, 1, 1, 2, 2, 0]] * 2,
        positions_BL=[[0, 1, 2, 0, 1, 0]] * 2,
    )
    built = [
        build_member(
            dict(name="block", size=2, context="causal", auxiliary=a),
            "objectives",
            tiny.VOCAB,
        ).loss(tiny.models(config), batch, jax.random.key(0))
        for a in (0.0, 0.5)
    ]
    logits_BLV = tiny.net(config)(
        tiny.under(
            tiny.canvas(x_BL, segments_BL=[[1, 1, 1, 2, 2, 0]] * 2), Causal("none")
        )
    ).prediction
    log_p_BLV = np.asarray(jax.nn.log_softmax(logits_BLV.logits_BLV, -1))
    want = -sum(log_p_BLV[b, i, x_BL[b, i + 1]] for b in range(2) for i in (0, 1, 3))
    assert float(built[1].nats_sum - built[0].nats_sum) == pytest.approx(
        0.5 * want, rel=1e-3
    )
    assert _next(logits_BLV, batch).sum() == pytest.approx(want, rel=1e-4)


# -------------------------------------------------------------------------------- priority, spans


def rates(config, t=0.5, rows=4000):
    """(masked share of marked positions, of the others, in each view), at one time."""
    built = build_member(config, "objectives", tiny.VOCAB)
    marked_L = np.array([1, 0, 0, 1, 0, 0, 0, 0])
    batch = tiny.batch(np.tile(tiny.tokens(1, 8), (rows, 1)))
    batch = dataclasses.replace(batch, marked_BL=jnp.tile(marked_L, (rows, 1)))
    times = jnp.full((rows, 8), t), jnp.ones((rows, 8))
    object.__setattr__(built, "draw_times", lambda models, batch, key: times)
    views = []

    def net(canvas):
        views.append(canvas.z_BL)
        return Output(Dense(jnp.zeros((*canvas.z_BL.shape, tiny.VOCAB.size))))

    built.loss(Models(net), batch, jax.random.key(0))
    shares = [np.asarray(z_BL == tiny.VOCAB.mask) for z_BL in views]
    return [
        (z[:, marked_L > 0].mean(), z[:, marked_L == 0].mean()) for z in shares
    ], shares


def test_marked_tokens_come_first_and_their_inverse_last():
    (first, inverse), (one_BL, other_BL) = rates(
        dict(name="priority", coupling="complementary")
    )
    assert first == (pytest.approx(0.75, abs=0.02), pytest.approx(0.25, abs=0.02))
    assert (
        inverse == (pytest.approx(0.25, abs=0.02), pytest.approx(0.75, abs=0.02))
        and (one_BL ^ other_BL).all()
    )
    (permuted, _), _ = rates(
        dict(name="priority", coupling="complementary", marks="permuted")
    )
    mean = (2 * 0.75 + 6 * 0.25) / 8
    assert permuted == (pytest.approx(mean, abs=0.02), pytest.approx(mean, abs=0.02))
    plain = build_member(dict(name="priority", strength=1.0), "objectives", tiny.VOCAB)
    t_BL = jnp.array([[0.2, 0.7]])
    tiny.close(plain._rate(t_BL, jnp.array([[True, False]])), 1 / t_BL, 1e-4)
    with pytest.raises(UserError, match="config.data.marked_characters"):
        plain.loss(Models(None), tiny.batch(tiny.tokens(2, 6)), jax.random.key(0))


def test_spans_are_masked_together():
    _, (z_BL,) = rates(dict(name="span", length=4), t=0.3)
    assert z_BL.mean() == pytest.approx(0.3, abs=0.02)
    same = (z_BL[:, 1:] == z_BL[:, :-1]).mean()
    assert same == pytest.approx(1 - 2 * 0.3 * 0.7 / 4, abs=0.02), (
        "a border in one of four places"
    )
