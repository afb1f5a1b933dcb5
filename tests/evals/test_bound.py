"""The evaluator of bits per byte: its arithmetic, over every window, padding left out."""

import math
import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.app.context import RunContext
from dlm.app.experiment import Experiment
from dlm.core.contracts import Bound
from dlm.core.run import build_run
from dlm.evals.bound import HeldOut
from tests import tiny


def test_bits_per_byte_and_its_error():
    rows_BL = np.array([[1, 2, 3], [4, 5, tiny.VOCAB.pad]])
    batches = [tiny.batch(rows_BL, segments_BL=rows_BL < 16), tiny.batch(rows_BL[:1])]
    calls = []

    def estimate(params, batch, key):
        variance_B = jnp.full(len(batch.tokens_BL), 0.25)
        return Bound(batch.weights_BL * 2.0, variance_B)

    def bound(samples, pattern):
        calls.append((samples, pattern))
        return estimate

    def reported(pattern):
        return types.SimpleNamespace(claims=f"as {pattern}")

    def held_out(limit):
        calls.append(limit)
        return iter(batches)

    context = types.SimpleNamespace(
        experiment=types.SimpleNamespace(bound=bound, reported=reported),
        tokenizer=types.SimpleNamespace(bytes_V=np.arange(20)),
        held_out=held_out,
        params=None,
        key=None,
        details={},
    )
    first, second = HeldOut(samples=6).run(context, 0)
    name, bits, se = first
    token_name, nats, token_se = second
    size = 1 + 2 + 3 + 4 + 5 + 1 + 2 + 3
    tokens = 8
    assert name == "bits_per_byte"
    assert token_name == "nats_per_token"
    assert calls == [(6, "count"), None]
    assert bits == pytest.approx(16 / math.log(2) / size)
    assert se == pytest.approx(0.75**0.5 / math.log(2) / size)
    assert nats == pytest.approx(16 / tokens)
    assert token_se == pytest.approx(0.75**0.5 / tokens)
    assert context.details == dict(claims="as count"), (
        "blocks of one are exact under a count alone"
    )
    list(HeldOut(windows=3, pattern="own").run(context, 0))
    assert calls[-2:] == [(4, "own"), 3]


@pytest.mark.slow
def test_a_count_scatters_less_around_the_same_value(corpus):
    """On a trained model. A network that is given the time keeps the noise of its training.

    A count would give it another time.
    """
    run = build_run(tiny.recipe(corpus, steps=80, nn__layers=1))
    trained = Experiment(run, run.text.fit(()))
    state, batches = trained.new_state(), trained.batches(0)
    for _ in range(run.steps):
        state, sums = trained.update(state, next(batches))
    assert sums["loss_sum"] < 0.7 * np.log(256) * sums["weight_sum"]
    context = RunContext(trained, state.params, run.data.source)
    batch = next(context.held_out())
    estimates = {}
    for pattern in ("count", "own"):
        bound = trained.bound(8, pattern)
        nats = []
        variances = []
        for key in jax.random.split(jax.random.key(0), 60):
            drawn = jax.device_get(bound(state.params, batch, key))
            nats.append(drawn.nats_BL.astype(np.float64).sum())
            variances.append(drawn.variance_B.sum())
        nats_S = np.array(nats)
        stated = np.mean(variances)
        assert 0.5 < nats_S.var(ddof=1) / stated < 1.5, "the stated error is the spread"
        estimates[pattern] = nats_S.mean(), nats_S.var(ddof=1) / len(nats_S), stated
    (count, its, low), (own, theirs, high) = estimates["count"], estimates["own"]
    assert abs(count - own) < 3 * (its + theirs) ** 0.5
    assert high > 3 * low
    timed = replace(run, nn=replace(run.nn, time="adaln"))
    assert [Experiment(r, None).reported().pattern for r in (run, timed)] == [
        "count",
        "bernoulli",
    ]


def test_mistakes():
    for wrong in (dict(samples=3), dict(samples=0), dict(windows=-1)):
        with pytest.raises(ValueError, match="must be even"):
            HeldOut(**wrong)
