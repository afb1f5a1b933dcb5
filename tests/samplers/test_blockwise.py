"""The default driver: which positions change in which pass, the number of passes, the cache."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import keys
from dlm.core.config import build_member
from dlm.core.contracts import Canvas, Dense, Output
from dlm.nn import transformer
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.samplers import generator
from dlm.samplers.plan import Sampler
from tests import tiny

B = 4
L = 10
MASK = tiny.VOCAB.mask
EOS = tiny.VOCAB.eos
PROCESS = build_member("mask", "noise", tiny.VOCAB)
rng = np.random.default_rng(0)
LEFT_VV, RIGHT_VV, PLACE_LV = (
    1.5 * rng.normal(size=(n, tiny.VOCAB.size))
    for n in (tiny.VOCAB.size, tiny.VOCAB.size, L)
)
KEY_B = keys.per_sample(jax.random.key(3), jnp.arange(B))


def neighbours(canvas):
    """A denoiser that looks at the place and at both neighbours."""
    z_BL = jnp.pad(canvas.z_BL, ((0, 0), (1, 1)), constant_values=tiny.VOCAB.pad)
    logits_BLV = (
        jnp.asarray(LEFT_VV)[z_BL[:, :-2]]
        + jnp.asarray(RIGHT_VV)[z_BL[:, 2:]]
        + PLACE_LV
    )
    judged_BL = logits_BLV[..., 0].astype(jnp.float32)
    return Output(
        Dense(
            jnp.where(jnp.arange(tiny.VOCAB.size) <= EOS, logits_BLV, -jnp.inf).astype(
                jnp.float32
            )
        ),
        heads=dict(quality=judged_BL),
    )


def template(anchors):
    """Masks, but for the anchors {position: token}."""
    z_BL = np.full((B, L), MASK, np.int32)
    frozen_BL = np.zeros((B, L), bool)
    for i, token in anchors.items():
        z_BL[:, i], frozen_BL[:, i] = token, True
    return Canvas(jnp.asarray(z_BL), jnp.ones((B, L)), jnp.asarray(frozen_BL), Full())


def sample(anchors=None, **settings):
    """(Sampled, z after each pass with the start in front)."""
    rule = build_member(settings.pop("rule", "ancestral"), "samplers.rules")
    start = template(anchors or {})
    run = partial(
        generator.generate,
        neighbours,
        Sampler(rule=rule, **settings),
        PROCESS,
        trace=True,
    )
    sampled = jax.jit(run)(start, KEY_B)
    n = int(sampled.nfe)
    return sampled, np.concatenate([start.z_BL[None], sampled.trace[0][:n]])


@pytest.mark.parametrize("rule", ["ancestral", "confident"])
def test_anchors_stay_blocks_follow_each_other_and_nothing_is_left(rule):
    sampled, z_TBL = sample({3: 7, 8: 2}, rule=rule, block=4, steps=3)
    masked_TBL = z_TBL == MASK
    assert (z_TBL[:, :, [3, 8]] == [7, 2]).all()
    assert not masked_TBL[-1].any()
    assert (z_TBL[-1] == sampled.canvas.z_BL).all()
    settled = ~masked_TBL[:-1]
    assert (z_TBL[1:][settled] == z_TBL[:-1][settled]).all(), (
        "a token that was written stays"
    )
    changed_TL = (z_TBL[1:] != z_TBL[:-1]).any(1)
    blocks = [set(np.flatnonzero(row) // 4) for row in changed_TL if row.any()]
    assert all(len(b) == 1 for b in blocks)
    assert [min(b) for b in blocks] == sorted(min(b) for b in blocks)
    assert 3 <= int(sampled.nfe) <= 9


@pytest.mark.slow
def test_confident_keeps_as_many_in_every_step_and_stops_when_nothing_is_left():
    for settings, counts in [
        (dict(steps=4), [3, 3, 2, 2]),
        (dict(steps=3, block=5), [2, 2, 1, 2, 2, 1]),
        (dict(steps=50), [1] * 10),
    ]:
        sampled, z_TBL = sample(rule="confident", **settings)
        assert (
            -np.diff((z_TBL == MASK).sum(-1), axis=0) == np.array(counts)[:, None]
        ).all()
        assert int(sampled.nfe) == len(counts)
    assert int(sample({i: 1 for i in range(L)}, steps=4)[0].nfe) == 0


def test_passes_are_counted_until_every_row_is_settled():
    sampled, z_TBL = sample(steps=1000)
    n = int(sampled.nfe)
    assert n < 1000
    assert not (z_TBL[n] == MASK).any()
    assert (z_TBL[n - 1] == MASK).any()
    np.testing.assert_allclose(
        sampled.trace[2][:n], 1 - np.arange(1, n + 1) / 1000, atol=1e-6
    )


@pytest.mark.slow
def test_mode_by_temperature_and_by_nucleus():
    mode = sample(steps=4, temperature=0.0)[0]
    tiny.identical(sample(steps=4, top_p=1e-6)[0].canvas.z_BL, mode.canvas.z_BL)
    hot = sample(steps=4, temperature=3.0)[0]
    assert (hot.canvas.z_BL != mode.canvas.z_BL).mean() > 0.3
    assert float(mode.log_prob_BL.sum()) > float(hot.log_prob_BL.sum())
    assert (mode.log_prob_BL < 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("confidence", ["drawn", "top", "margin", "entropy"])
def test_temperature_does_not_change_the_order(confidence):
    """The surest half goes first, by the prediction at temperature 1."""
    p_LV = np.asarray(
        neighbours(tiny.under(template({}), None)).prediction.probs()[0], np.float64
    )
    ordered_LV = np.sort(p_LV, -1)[:, ::-1]
    sure_L = {
        "margin": ordered_LV[:, 0] - ordered_LV[:, 1],
        "entropy": np.sum(p_LV * np.log(np.maximum(p_LV, 1e-30)), -1),
    }.get(confidence, ordered_LV[:, 0])
    for temperature in [0.0] if confidence == "drawn" else [0.0, 4.0]:
        z_TBL = sample(
            rule=dict(name="confident", confidence=confidence),
            steps=2,
            temperature=temperature,
        )[1]
        assert (
            np.sort(np.argsort(-sure_L)[: L // 2])
            == np.flatnonzero(z_TBL[1, 0] != MASK)
        ).all()


@pytest.mark.slow
def test_the_surest_of_what_was_drawn_goes_first():
    """Under a high temperature the confidence is still that of the drawn token at temperature 1."""
    sampled, z_TBL = sample(rule="confident", steps=L, temperature=3.0)
    log_BLV = np.asarray(
        jax.nn.log_softmax(
            neighbours(tiny.under(template({}), None)).prediction.logits_BLV, -1
        )
    )
    first_B = (z_TBL[1] != MASK).argmax(1)
    want_B = log_BLV[np.arange(B), first_B, z_TBL[1][np.arange(B), first_B]]
    np.testing.assert_allclose(
        np.asarray(sampled.log_prob_BL)[np.arange(B), first_B], want_B, atol=1e-5
    )


# ------------------------------------------------------------------------------------------- cache

TIMED = tiny.model_config(time="adaln")
PARAMS = tiny.random_params(TIMED, scale=0.4)
AR_SAMPLER = Sampler(build_member("ancestral", "samplers.rules"), steps=1, block=1)


@partial(jax.jit, static_argnames=("cached", "prefill", "temperature"))
def decode(canvas, key_B, cached, prefill=0, temperature=1.0):
    canvas = tiny.under(canvas, Causal())
    if cached:
        cache = transformer.empty_cache(
            transformer.Transformer(TIMED), *canvas.z_BL.shape
        )
        canvas = replace(canvas, cache=cache)
    options = dict(prefill=prefill, stop=True, trace=True)
    return generator.generate(
        tiny.net(TIMED, PARAMS),
        replace(AR_SAMPLER, temperature=temperature),
        PROCESS,
        canvas,
        key_B,
        **options,
    )


@pytest.fixture(scope="module")
def prompted():
    return template({0: 4, 1: 9, 2: 9, 5: 1})


@pytest.mark.slow
def test_the_cache_changes_nothing(prompted):
    modes = partial(decode, prompted, KEY_B, temperature=0.0)
    plain = modes(False)
    cached = modes(True)
    prefilled = modes(True, prefill=2)
    free_BL = ~np.asarray(prompted.frozen_BL)
    ends_BL = (np.asarray(plain.canvas.z_BL) == EOS) & free_BL
    until_BL = (
        np.cumsum(ends_BL, 1) - ends_BL
    ) == 0  # up to and with a row's first eos
    assert until_BL[:, 3:].mean() > 0.5
    tiny.identical(
        np.where(until_BL, cached.canvas.z_BL, 0),
        np.where(until_BL, plain.canvas.z_BL, 0),
    )
    tiny.close(
        np.where(until_BL, cached.log_prob_BL, 0),
        np.where(until_BL, plain.log_prob_BL, 0),
    )
    tiny.identical(prefilled.canvas.z_BL, cached.canvas.z_BL)
    tiny.close(prefilled.log_prob_BL, cached.log_prob_BL)
    assert int(prefilled.nfe) == int(cached.nfe) - 1


@pytest.mark.slow
def test_decoding_has_the_likelihood_that_training_measures(prompted):
    """log p of what was drawn is the objective's, for a model that listens to the time as well."""
    from dlm.objectives.ar import AR

    sampled = decode(prompted, KEY_B, True)
    canvas = sampled.canvas
    nats_BL = AR(vocab=tiny.VOCAB).bound_nats(
        tiny.models(TIMED, PARAMS),
        tiny.batch(canvas.z_BL),
        canvas.z_BL,
        jnp.zeros(canvas.z_BL.shape),
    )
    drawn_BL = np.asarray(sampled.log_prob_BL) != 0
    assert drawn_BL.sum() > L
    tiny.close(
        np.where(drawn_BL, sampled.log_prob_BL, 0), np.where(drawn_BL, -nats_BL, 0)
    )


@pytest.mark.slow
def test_a_row_that_has_ended_is_the_same_in_any_company():
    canvas = template({0: 4})
    for seed in range(30):  # until one row ends early and another does not
        key_B = keys.per_sample(jax.random.key(seed), jnp.arange(B))
        together = jax.tree.map(np.asarray, decode(canvas, key_B, True))
        ended_BL = together.canvas.z_BL[:, 1:] == EOS
        if ended_BL.any() and not ended_BL.any(1).all():
            break
    assert ended_BL.any()
    assert not ended_BL.any(1).all()
    row = int(ended_BL.any(1).argmax())
    alone = jax.tree.map(np.asarray, decode(canvas, jnp.stack([key_B[row]] * B), True))
    tiny.identical(
        (alone.canvas.z_BL[0], alone.log_prob_BL[0]),
        (together.canvas.z_BL[row], together.log_prob_BL[row]),
    )
    after = 2 + int(ended_BL[row].argmax())
    assert (together.canvas.z_BL[row, after:] == tiny.VOCAB.pad).all()
    assert (together.log_prob_BL[row, after:] == 0).all()


@pytest.mark.slow
def test_the_trace_tells_every_pass_of_a_prefilled_decoding(prompted):
    sampled = jax.tree.map(np.asarray, decode(prompted, KEY_B, True, prefill=2))
    n = int(sampled.nfe)
    z_TBL = sampled.trace[0][:n]
    times_T = sampled.trace[2][:n]
    assert (z_TBL[0] == np.asarray(prompted.z_BL)).all()
    assert (np.diff(times_T) < 0).all()
    written = z_TBL[-1] != MASK
    assert (z_TBL[-1][written] == sampled.canvas.z_BL[written]).all()
