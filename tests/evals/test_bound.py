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
    asked = []

    def bound(samples, pattern):
        asked.append((samples, pattern))
        return lambda params, batch, key: Bound(
            batch.weights_BL * 2.0, jnp.full(len(batch.tokens_BL), 0.25)
        )

    context = types.SimpleNamespace(
        experiment=types.SimpleNamespace(
            bound=bound, reported=lambda pattern: types.SimpleNamespace(claims=f"as {pattern}")
        ),
        tokenizer=types.SimpleNamespace(bytes_V=np.arange(20)),
        held_out=lambda limit: asked.append(limit) or iter(batches),
        params=None,
        key=None,
        details={},
    )
    (name, bits, se), (token_name, nats, token_se) = HeldOut(samples=6).run(context, 0)
    size, tokens = 1 + 2 + 3 + 4 + 5 + 1 + 2 + 3, 8
    assert (name, token_name, asked) == ("bits_per_byte", "nats_per_token", [(6, "count"), None])
    assert bits == pytest.approx(16 / math.log(2) / size) and se == pytest.approx(
        0.75**0.5 / math.log(2) / size
    )
    assert nats == pytest.approx(16 / tokens) and token_se == pytest.approx(0.75**0.5 / tokens)
    assert context.details == dict(claims="as count"), "blocks of one are exact under a count alone"
    list(HeldOut(windows=3, pattern="own").run(context, 0))
    assert asked[-2:] == [(4, "own"), 3]


@pytest.mark.slow
def test_a_count_scatters_less_around_the_same_value(corpus):
    """On a model that has learned something; one that is told the time keeps its own way, since a count would tell it another."""
    run = build_run(tiny.recipe(corpus, steps=80, nn__layers=1))
    made = Experiment(run, run.text.fit(()))
    state, batches = made.new_state(), made.batches(0)
    for _ in range(run.steps):
        state, sums = made.update(state, next(batches))
    assert sums["loss_sum"] < 0.7 * np.log(256) * sums["weight_sum"]
    batch, found = next(RunContext(made, state.params, run.data.source).held_out()), {}
    for pattern in ("count", "own"):
        drawn = [
            jax.device_get(made.bound(8, pattern)(state.params, batch, key))
            for key in jax.random.split(jax.random.key(0), 60)
        ]
        nats_S, stated = (
            np.array([b.nats_BL.astype(np.float64).sum() for b in drawn]),
            np.mean([b.variance_B.sum() for b in drawn]),
        )
        assert 0.5 < nats_S.var(ddof=1) / stated < 1.5, "the stated error is the spread"
        found[pattern] = nats_S.mean(), nats_S.var(ddof=1) / len(nats_S), stated
    (count, its, low), (own, theirs, high) = found["count"], found["own"]
    assert abs(count - own) < 3 * (its + theirs) ** 0.5 and high > 3 * low
    told = replace(run, nn=replace(run.nn, time="adaln"))
    assert [Experiment(r, None).reported().pattern for r in (run, told)] == ["count", "bernoulli"]


def test_mistakes():
    for wrong in (dict(samples=3), dict(samples=0), dict(windows=-1)):
        with pytest.raises(ValueError, match="must be even"):
            HeldOut(**wrong)
