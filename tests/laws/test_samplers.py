"""What a sampler draws: the ancestral law tends to p, its draws follow that law, anchors stay, no mask is left."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.nn.masks import Mask
from dlm.oracle.exact import ancestral_law, total_variation
from dlm.run import keys, spec
from dlm.run.contracts import Canvas
from dlm.samplers import loop
from tests.laws import worlds as w

P_X = w.law(w.WORLDS[1])
ONE = {"table_BL": jnp.ones((1, w.L), jnp.int32)}  # w.TABLES[1], the oracle of WORLDS[1]
N = 20_000
every_process = pytest.mark.parametrize("process", w.PROCESSES, ids=w.title)
every_rule = pytest.mark.parametrize("rule", w.RULES, ids=w.title)


@cache
def _law(noise, steps):
    return ancestral_law(w.tables, noise, Mask(), steps, w.VOCAB, w.L, ONE)


def _draw(rule, z_BL, frozen_BL, *, noise=w.PROCESSES[0], mask=Mask(), **settings):
    sampler = loop.Sampler(rule=spec.build(rule, "samplers", w.VOCAB), **settings)
    fields = {"table_BL": jnp.ones(z_BL.shape, jnp.int32)}
    canvas = Canvas(jnp.asarray(z_BL), jnp.ones(z_BL.shape), jnp.asarray(frozen_BL), fields)
    run = jax.jit(lambda canvas, key_B: loop.generate(w.tables, sampler, w.process(noise), mask, canvas, key_B).canvas.z_BL)
    return np.asarray(run(canvas, keys.per_sample(keys.root(0), jnp.arange(len(z_BL)))))


def _masks(n):
    return np.full((n, w.L), w.VOCAB.mask, np.int32), np.zeros((n, w.L), bool)


@every_process
def test_ancestral_law_tends_to_p(process):
    noise = w.process(process)
    distance = [total_variation(_law(noise, steps), P_X) for steps in (1, 32, 64)]
    assert distance[0] > 2 * distance[1] and distance[0] > 0.05
    assert 1.7 < distance[1] / distance[2] < 2.3
    assert all(abs(_law(noise, steps).sum() - 1) < 1e-5 for steps in (1, 32, 64)), "no mask is left"


@pytest.mark.parametrize("process", [w.PROCESSES[0], pytest.param(w.PROCESSES[1], marks=pytest.mark.slow)], ids=w.title)
@pytest.mark.parametrize("steps", [1, 3])
def test_draws_follow_the_ancestral_law(process, steps):
    drawn_X = w.counts(_draw("ancestral", *_masks(N), noise=process, steps=steps))
    assert w.chi_square(drawn_X, _law(w.process(process), steps)) > 1e-4
    assert w.chi_square(drawn_X, P_X) < 1e-4, "few steps are seen to differ from p, else this test sees nothing"


def test_one_step_draws_the_factorised_law():
    first_LV = np.asarray(jnp.exp(jax.nn.log_softmax(w.TABLES[1][-1])))[:, : w.V]  # the last state of the canvas is all masks
    assert (w.Z_ZL[-1] == w.VOCAB.mask).all()
    product_X = np.prod(first_LV[np.arange(w.L), w.X_XL], -1)
    np.testing.assert_allclose(_law(w.process(w.PROCESSES[0]), 1), product_X, atol=1e-6)


@pytest.mark.parametrize("mask", [Mask(), Mask("causal", shift=1)], ids=str)
@every_rule
def test_one_position_at_a_time_is_exact(rule, mask):
    """Blocks of one leave a rule nothing to order: left to right, each from its exact conditional, under either mask."""
    assert w.chi_square(w.counts(_draw(rule, *_masks(N), mask=mask, block=1, steps=1)), P_X) > 1e-4


@every_rule
def test_every_rule_keeps_to_its_claim(rule):
    """A rule that claims a law reaches p with many steps; one that claims none says so."""
    claims = spec.build(rule, "samplers", w.VOCAB).claims
    assert claims.startswith(("law → p", "no law"))
    if claims.startswith("law"):
        drawn_X = w.counts(_draw(rule, *_masks(N), steps=128))
        noise = np.sqrt(2 / np.pi * P_X / N).sum() / 2  # expected distance of N draws from their own law
        assert total_variation(drawn_X / N, P_X) < 2 * noise


@pytest.mark.parametrize("block, steps", [(0, 1), (0, 5), (2, 2)])
@every_rule
def test_anchors_stay_and_no_mask_is_left(rule, block, steps):
    z_BL = np.concatenate([w.Z_ZL] * 2)  # every state of the canvas, hence anchors anywhere
    frozen_BL = z_BL != w.VOCAB.mask
    done_BL = _draw(rule, z_BL, frozen_BL, block=block, steps=steps)
    assert (done_BL[frozen_BL] == z_BL[frozen_BL]).all()
    assert (done_BL < w.V).all()
