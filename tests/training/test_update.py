"""One update: microbatches, the order of a batch and the mesh change nothing but rounding.

A run resumes byte for byte.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.app.experiment import Experiment
from dlm.core.contracts import Loss, UnbiasedLoss
from dlm.core.errors import UserError
from dlm.core.run import build_run
from dlm.runs import checkpoint, weights
from dlm.training import optimizer as optim
from dlm.training.config import Average, OptimizerConfig, Skip
from dlm.training.update import create_state, make_update
from tests import tiny

ROWS = 8


MADE = {}  # one experiment, and its compiled update, for each config


def experiment(corpus, **changes):
    # Adam divides a gradient by its own size, so near zero rounding becomes a fraction of the
    # rate, which must therefore be small.
    run = build_run(tiny.recipe(corpus, **dict(optim__lr=1e-3) | changes))
    if str(run) not in MADE:
        MADE[str(run)] = Experiment(run, run.text.fit(()))
    return MADE[str(run)]


def updated(trial, batches, before=None):
    """(state, sums of the last update) after the batches."""
    now = trial.new_state() if before is None else before
    for batch in batches:
        now, sums = trial.update(now, trial.put(batch))
    return jax.device_get((now, sums))


@pytest.fixture(scope="module")
def two(corpus):
    """Two batches, as the loader gives them."""
    trial = experiment(corpus)
    windows = trial.run.data.train_windows(trial.tokenizer, 0)
    batches = trial.run.data.batches(windows, 0)
    return [next(batches), next(batches)]


@pytest.fixture(scope="module")
def plain(corpus, two):
    return updated(experiment(corpus), two)


MESHES = [dict(data=1, fsdp=2, tensor=2)]  # data=4 in tests/commands
pytestmark = pytest.mark.slow


def agree(result, plain):
    tiny.close(result[1], plain[1])
    tiny.close(result[0].params, plain[0].params)
    tiny.close(result[0].moments, plain[0].moments)


def test_the_update_does_something(plain, corpus):
    before = experiment(corpus).new_state().params
    assert all(
        np.abs(a - b).max() > 1e-4
        for a, b in zip(
            jax.tree.leaves(before), jax.tree.leaves(plain[0].params), strict=True
        )
    )
    assert (
        int(plain[0].step) == 2
        and plain[1]["weight_sum"] == ROWS * 32
        and 0 < plain[1]["metrics"]["masked_share"].value_sum < ROWS * 32
    )


def test_microbatches_change_nothing(corpus, two, plain):
    result = updated(experiment(corpus, optim__microbatches=4), two)
    agree(result, plain)
    assert (
        result[1]["metrics"]["masked_share"].value_sum
        == plain[1]["metrics"]["masked_share"].value_sum
    ), "the same masks"


def test_the_order_of_a_batch_changes_nothing(corpus, two, plain):
    agree(
        updated(
            experiment(corpus),
            [{k: v[::-1] for k, v in batch.items()} for batch in two],
        ),
        plain,
    )


@pytest.mark.parametrize("mesh", MESHES, ids=str)
def test_the_mesh_changes_nothing(mesh, corpus, two, plain):
    trial = experiment(corpus, mesh=mesh, nn__attention__kv_heads=1)
    result = updated(trial, two)
    agree(result, plain)
    assert (
        result[1]["metrics"]["masked_share"].value_sum
        == plain[1]["metrics"]["masked_share"].value_sum
    ), "the same masks"
    q = trial.new_state().params["layers"]["attention"]["q_DHK"]
    assert len(q.sharding.device_set) == 4
    assert q.addressable_shards[0].data.size == q.size // (
        mesh.get("fsdp", 1) * mesh.get("tensor", 1)
    )


def test_noise_differs_between_steps_and_samples(corpus, two):
    trial = experiment(corpus)
    state, first = trial.update(trial.new_state(), trial.put(two[0]))
    second = trial.update(state, trial.put(two[0]))[1]
    assert (
        first["metrics"]["masked_share"].value_sum
        != second["metrics"]["masked_share"].value_sum
    )


def test_the_loss_is_per_token_and_microbatches_weigh_by_tokens():
    """Rows of unequal weight: the gradient of Σ nats / Σ weights, whatever the parts."""
    o = OptimizerConfig(lr=1.0, clip=0.0)
    batch = tiny.batch(
        tiny.tokens(4, 3),
        segments_BL=np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]]),
    )

    def loss_of(params, batch, key, *_):
        nats_BL = params["x_D"][0] * batch.tokens_BL * batch.weights_BL
        return Loss(nats_BL.sum(), batch.weights_BL.sum())

    weights_BL, tokens_BL = np.asarray(batch.weights_BL), np.asarray(batch.tokens_BL)
    for parts in (1, 2):
        chosen = OptimizerConfig(lr=1.0, clip=0.0, microbatches=parts)
        optimizer = optim.transformation(o, 4)
        begin = create_state({"x_D": jnp.ones(1)}, o, optimizer)
        update = make_update(
            loss_of, chosen, optimizer, lambda s: 1.0, jax.random.key(0), np.arange(20)
        )
        sums = jax.jit(update)(begin, batch)[1]
        assert float(sums["grad_norm"]) == pytest.approx(
            (tokens_BL * weights_BL).sum() / weights_BL.sum(), rel=1e-5
        )
        assert float(sums["bytes_sum"]) == (tokens_BL * weights_BL).sum()


def test_an_update_without_a_finite_gradient_or_with_too_large_a_one_changes_nothing_but_the_step():
    batch = tiny.batch(tiny.tokens(2, 3))
    before = None
    for scale, norm, skipped in [
        (1.0, 0.0, 0),
        (np.nan, 0.0, 1),
        (np.inf, 0.0, 1),
        (5.0, 1.0, 1),
        (0.5, 1.0, 0),
    ]:
        o = OptimizerConfig(skip=Skip(norm=norm), ema=Average(0.5))
        optimizer = optim.transformation(o, 4)

        def loss_of(p, b, *_, scale=scale):
            return Loss(scale * p["x_D"][0] * b.weights_BL.sum(), b.weights_BL.sum())

        update = make_update(
            loss_of, o, optimizer, lambda s: 1.0, jax.random.key(0), np.ones(20)
        )
        before = create_state({"x_D": jnp.ones(1)}, o, optimizer)
        after, sums = jax.jit(update)(before, batch)
        same = jax.tree.map(
            lambda a, b: bool((a == b).all()),
            (before.params, before.moments, before.ema),
            (after.params, after.moments, after.ema),
        )
        assert (
            sums["skipped_sum"] == skipped
            and all(jax.tree.leaves(same)) == bool(skipped)
            and after.step == 1
        )
        assert (
            sums["weight_sum"] == (0 if skipped else 6)
            and np.isfinite(sums["loss_sum"])
            and "nats_sum" not in sums
        )


def test_a_batch_in_which_nothing_counts_leaves_everything_as_it_is():
    """All state and the learning rate are those of a run without it; it is not a skipped update."""
    o = OptimizerConfig(lr=0.1, warmup=3, schedule="linear", ema=Average(0.5))
    optimizer, schedule = optim.transformation(o, 8), optim.rate(o, 8)

    def loss_of(p, b, *_):
        return UnbiasedLoss(
            (p["x_D"][0] * b.tokens_BL * b.weights_BL).sum() ** 2, b.weights_BL.sum()
        )

    update = jax.jit(
        make_update(loss_of, o, optimizer, schedule, jax.random.key(0), np.ones(20))
    )
    full, empty = (
        tiny.batch(tiny.tokens(2, 3), segments_BL=np.full((2, 3), segment))
        for segment in (1, 0)
    )
    result = []
    for batches in ([full] * 3, [empty, full, empty, empty, full, full]):
        now, logged = create_state({"x_D": jnp.ones(1)}, o, optimizer), []
        for batch in batches:
            now, sums = update(now, batch)
            assert (sums["empty_sum"], sums["skipped_sum"]) == (
                batch is empty,
                0,
            ) and all(np.isfinite(jax.tree.leaves(sums)))
            logged += [] if batch is empty else [(sums["lr"], sums["grad_norm"])]
        assert now.step == len(batches)
        result.append(((now.params, now.moments, now.ema), logged))
    tiny.identical(*result)


def averages(warmup, decay, updates):
    """Returns (averages, values) of a parameter that begins at 1, after each update."""
    o = OptimizerConfig(lr=0.1, warmup=0, ema=Average(decay, warmup))
    optimizer = optim.transformation(o, 100)

    def loss_of(p, b, *_):
        return Loss(p["x_D"].sum() * b.weights_BL.sum(), b.weights_BL.sum())

    update = jax.jit(
        make_update(
            loss_of, o, optimizer, optim.rate(o, 100), jax.random.key(0), np.ones(20)
        )
    )
    full, empty = (
        tiny.batch(tiny.tokens(2, 3), segments_BL=np.full((2, 3), segment))
        for segment in (1, 0)
    )
    now, result = create_state({"x_D": jnp.ones(1)}, o, optimizer), []
    for batch in [full, empty] * updates:  # of empty batches no update is counted
        now, _ = update(now, batch)
        result += [] if batch is empty else [(now.ema["x_D"][0], now.params["x_D"][0])]
    assert now.averaged is now.ema
    return np.array(result).T


def test_the_average_forgets_the_initial_parameters_at_once_and_keeps_what_it_has_later():
    """After n updates the decay is (1 + n)/(10 + n), up to the decay of the config.

    Old runs use the latter from the first update.
    """
    for warmup, decays in (
        ("ramp", [1 / 10, 2 / 11, 3 / 12, 0.3, 0.3]),
        ("none", [0.3] * 5),
    ):
        average_T, params_T = averages(warmup, 0.3, 5)
        want = [1.0]
        for decay, p in zip(decays, params_T, strict=True):
            want.append(want[-1] * np.float32(decay) + p * np.float32(1 - decay))
        np.testing.assert_allclose(average_T, want[1:], rtol=1e-6)
    initial = np.prod([min(0.999, (1 + n) / (10 + n)) for n in range(2000)])
    assert initial < 1e-20 < 0.13 < 0.999**2000, (
        "what is left of the initial ones after 2,000 updates"
    )


def test_averaged_parameters(corpus, two):
    trial = experiment(corpus, optim__ema=dict(decay=0.75, warmup="none"))
    before = jax.device_get(trial.new_state())
    now, _ = updated(trial, two[:1])
    as_ever = jax.jit(
        lambda old, new: jax.tree.map(lambda e, p: e * 0.75 + p * (1 - 0.75), old, new)
    )
    tiny.identical(now.ema, as_ever(before.params, now.params))
    assert now.averaged is now.ema and before.averaged is before.ema


def test_batches_that_cannot_be_split(corpus):
    for changes in (
        dict(optim__microbatches=3),
        dict(mesh=dict(data=4), data__batch=6),
    ):
        with pytest.raises(
            UserError, match="config.data.batch=. must be a multiple of"
        ):
            experiment(corpus, **changes)
    for mesh in (dict(fsdp=8), dict(tensor=3), dict(data=3, tensor=2)):
        with pytest.raises(UserError, match="does not fit 4 cpu"):
            experiment(corpus, mesh=mesh)


# ------------------------------------------------------------------------------------ checkpoints


def test_a_checkpoint_comes_back_on_another_mesh_and_old_ones_go(corpus, tmp_path, two):
    trial = experiment(corpus, optim__ema=0.5, optim__kind="muon")
    store, now = checkpoint.Store(tmp_path, keep=2), trial.new_state()
    states = {}
    for step in (1, 2, 3):
        now, _ = trial.update(now, trial.put(two[0]))
        store.save(step, now)
        states[step] = jax.device_get(now)
    store.close()
    assert checkpoint.steps(tmp_path) == [2, 3]
    other = experiment(
        corpus, optim__ema=0.5, optim__kind="muon", mesh=dict(data=1, fsdp=2, tensor=2)
    ).abstract_state()
    store = checkpoint.Store(tmp_path)
    for step in (None, 2):
        result = store.restore(other, checkpoint.intact(tmp_path, print, step))
        tiny.identical(jax.device_get(result), states[step or 3])
    averaged = weights.load(tmp_path, 3, other.params)
    tiny.identical(jax.device_get(averaged), states[3].ema)
    assert any(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(states[3].ema),
            jax.tree.leaves(states[3].params),
            strict=True,
        )
    )
    assert (
        result.params["layers"]["ffn"]["up_DF"].sharding
        == other.params["layers"]["ffn"]["up_DF"].sharding
    )
    with pytest.raises(
        UserError, match=r"no checkpoint of step 1 in .*; there are \[2, 3\]"
    ):
        checkpoint.intact(tmp_path, print, 1)
    store.close()
