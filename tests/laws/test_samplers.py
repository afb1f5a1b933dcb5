"""What a sampler draws.

The ancestral law tends to p, its draws follow that law, anchors stay, no mask is left.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import keys
from dlm.core.config import build_member
from dlm.core.contracts import Canvas
from dlm.nn.visibility.causal import Causal
from dlm.nn.visibility.full import Full
from dlm.oracle.enumeration import ancestral_law, total_variation
from dlm.samplers import generator
from dlm.samplers.plan import Sampler
from tests.laws import worlds as w

PLAIN = dict(name="mask")
HALF = dict(name="hybrid", uniform=0.5)
P_X = w.law(w.WORLDS[1])
ONE = w.for_table(1, 1)  # w.TABLES[1], the oracle of WORLDS[1]
N = 20_000
every_process = w.first_of_each("process", w.PROCESSES)
every_rule = w.first_of_each("rule", w.EACH_RULE)


@cache
def _law(noise, steps):
    return ancestral_law(_oracle(noise), noise, Full(), steps, w.VOCAB, w.L, ONE)


@cache
def _oracle(noise):
    return w.tables if noise.final else w.oracle(1, noise)


def _draw(rule, z_BL, frozen_BL, *, noise=PLAIN, mask=Full(), **settings):
    sampler = Sampler(rule=build_member(rule, "samplers.rules", w.VOCAB), **settings)
    layout = w.for_table(1, len(z_BL))
    canvas = Canvas(
        jnp.asarray(z_BL), jnp.ones(z_BL.shape), jnp.asarray(frozen_BL), mask, layout
    )

    def drawn(canvas, key_B):
        return generator.generate(
            _oracle(w.process(noise)), sampler, w.process(noise), canvas, key_B
        ).canvas.z_BL

    run = jax.jit(
        drawn,
        compiler_options={"xla_backend_optimization_level": int(sampler.steps > 9)},
    )  # of many steps running costs, too
    return np.asarray(run(canvas, keys.per_sample(keys.root(0), jnp.arange(len(z_BL)))))


MASKS = np.full((N, w.L), w.VOCAB.mask, np.int32)
ANCHORED = np.concatenate(
    [w.Z_ZL] * 32
)  # every state of the canvas, hence anchors anywhere


def _checked(rule, blank=N, **settings):
    """Draws from a blank canvas, after a look at rows with anchors.

    These stay, and no mask is left.
    """
    rows_BL = np.concatenate([MASKS[:blank], ANCHORED])
    done_BL = _draw(rule, rows_BL, w.VOCAB.mask != rows_BL, **settings)
    assert (done_BL < w.V).all()
    stays_BL = w.VOCAB.mask != ANCHORED
    assert (done_BL[blank:][stays_BL] == ANCHORED[stays_BL]).all()
    return done_BL[:blank]


@every_process
def test_ancestral_law_tends_to_p(process):
    noise = w.process(process)
    distance = [total_variation(_law(noise, steps), P_X) for steps in (1, 32, 64)]
    assert distance[0] > 2 * distance[1] and distance[0] > 0.05
    assert 1.7 < distance[1] / distance[2] < 2.3
    assert all(abs(_law(noise, steps).sum() - 1) < 1e-5 for steps in (1, 32, 64)), (
        "no mask is left"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "process, steps",
    [
        (PLAIN, 1),
        (dict(name="mask", schedule="cosine"), 3),
        (dict(name="uniform"), 3),
        (HALF, 3),
    ],
)
def test_draws_follow_the_ancestral_law(process, steps):
    drawn_X = w.counts(_checked("ancestral", noise=process, steps=steps))
    assert w.chi_square(drawn_X, _law(w.process(process), steps)) > 1e-4
    assert w.chi_square(drawn_X, P_X) < 1e-4, (
        "few steps are seen to differ from p, else this test sees nothing"
    )


def test_one_step_draws_the_factorised_law():
    first_LV = np.asarray(jnp.exp(jax.nn.log_softmax(w.TABLES[1][-1])))[
        :, : w.V
    ]  # the last state of the canvas is all masks
    assert (w.Z_ZL[-1] == w.VOCAB.mask).all()
    product_X = np.prod(first_LV[np.arange(w.L), w.X_XL], -1)
    np.testing.assert_allclose(
        _law(w.process(dict(name="mask")), 1), product_X, atol=1e-6
    )


@pytest.mark.slow
@every_rule
def test_one_position_at_a_time_is_exact(rule):
    """Blocks of one leave no order to a rule: left to right, each from its exact conditional."""
    assert w.chi_square(w.counts(_checked(rule, block=1, steps=1)), P_X) > 1e-4


@pytest.mark.slow
def test_a_causal_denoiser_draws_from_p():
    drawn_BL = _draw("ancestral", MASKS, MASKS < 0, mask=Causal(), block=1, steps=1)
    assert w.chi_square(w.counts(drawn_BL), P_X) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        r
        for r in w.EACH_RULE
        if build_member(r, "samplers.rules", w.VOCAB).order_randomness
    ],
    ids=w.title,
)
def test_anchors_stay_and_no_mask_is_left(rule):
    """In two steps for three positions.

    The rules that leave nothing to chance: tests/laws/test_exact.py.
    """
    _checked(rule, blank=0, steps=2)


@pytest.mark.slow
@every_rule
def test_every_rule_keeps_to_its_claim(rule):
    """A rule that claims a law reaches p with one position a step, or with many steps; one that
    claims none says so.
    """
    claims = build_member(rule, "samplers.rules", w.VOCAB).claims
    assert claims.startswith(("law → p", "no law"))
    if claims.startswith("law"):
        n = 4000
        steps = 64 if claims.endswith("1/steps") else w.L
        drawn_X = w.counts(_draw(rule, MASKS[:n], MASKS[:n] < 0, steps=steps))
        noise = (
            np.sqrt(2 / np.pi * P_X / n).sum() / 2
        )  # expected distance of n draws from their own law
        assert total_variation(drawn_X / n, P_X) < 1.6 * noise
