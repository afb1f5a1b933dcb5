"""Categorical draws have no temperature bias.

Chi-square over a million draws, and the rare events that Gumbel noise loses.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import poisson

from dlm.core import keys
from dlm.core.contracts import Canvas, Dense, Output
from dlm.core.vocab import Vocab
from dlm.nn.visibility.full import Full
from dlm.oracle.enumeration import step_law
from dlm.samplers.drivers.base import Tempered
from dlm.samplers.plan import Sampler
from dlm.samplers.rules.ancestral import Ancestral
from dlm.samplers.rules.base import StepView
from tests.laws import worlds as w

FAST = {
    "xla_backend_optimization_level": 3
}  # the suite compiles for quick compilation; here running is what costs
rng = np.random.default_rng(0)
LAWS = dict(
    two=np.log([0.999, 0.001]),
    normal_100=2 * rng.normal(size=100),
    barred_200=np.where(rng.random(200) < 0.3, -np.inf, rng.normal(size=200)),
    zipf_129=-np.log(np.arange(1, 130)),
    far_apart=np.array([0.0, -9.0, 40.0, 31.0, -np.inf, 39.0]),
)


def _counts(logits_V, draws, rows):
    """How often each id came up."""
    draw = jax.jit(
        lambda key_B, logits: keys.categorical(
            key_B, jnp.broadcast_to(logits, (rows, 256, len(logits_V)))
        ),
        compiler_options=FAST,
    )
    total_V = np.zeros(len(logits_V), np.int64)
    for i in range(draws // (rows * 256)):
        key_B = keys.per_sample(keys.root(i), jnp.arange(rows))
        total_V += np.bincount(
            np.asarray(draw(key_B, jnp.asarray(logits_V, jnp.float32))).ravel(),
            minlength=len(logits_V),
        )
    return total_V


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow) if n not in ("two", "far_apart") else n
        for n in LAWS
    ],
)
def test_a_million_draws(name):
    logits_V = LAWS[name]
    p_V = np.exp(logits_V - logits_V.max())
    count_V = _counts(logits_V, 2**20, 512)
    assert (count_V[p_V == 0] == 0).all()
    assert w.chi_square(count_V, p_V) > 1e-4


# ------------------------------------------------------------------ one token in 512 (2409.02908)

SIZE = 50_000
STEPS = 512
LENGTH = 512
BIG = Vocab(SIZE + 3, bos=SIZE + 1, eos=0, pad=SIZE + 2, mask=SIZE)


def _faithful(step, p_V, passes):
    """Does the first of 512 steps from an all-mask canvas reveal as many tokens as it should, with
    the mean −log p it should have?
    """
    key_P1 = [keys.per_sample(keys.root(0), jnp.array([i])) for i in range(passes)]
    z = np.concatenate(
        [
            np.asarray(step(key_1, jnp.asarray(np.log(p_V), jnp.float32)))[0]
            for key_1 in key_P1
        ]
    )
    nats = -np.log(p_V[z[z != SIZE]])
    if min(poisson.cdf(len(nats), passes), poisson.sf(len(nats) - 1, passes)) < 1e-3:
        return False
    entropy = -(p_V * np.log(p_V)).sum()
    spread = np.sqrt((p_V * (np.log(p_V) + entropy) ** 2).sum())
    return abs(nats.mean() - entropy) <= 3 * spread / len(nats) ** 0.5 + 1e-6


@partial(jax.jit, compiler_options=FAST)
def _ancestral(key_B, logits_V):
    noise = w.build_member(dict(name="mask", schedule="linear"), "noise", BIG)
    z_BL = jnp.full((1, LENGTH), SIZE, jnp.int32)
    logits_BLV = jnp.broadcast_to(
        jnp.pad(logits_V, (0, 3), constant_values=-jnp.inf), (1, LENGTH, SIZE + 3)
    )
    canvas = Canvas(z_BL, jnp.ones(z_BL.shape), jnp.zeros(z_BL.shape, bool), Full())
    t_B = jnp.ones(1)
    view = StepView(
        canvas, noise, z_BL == SIZE, t_B, t_B - 1 / STEPS, jnp.zeros(z_BL.shape)
    )
    return Ancestral().step(key_B, Output(Dense(logits_BLV)), view, ())[0]


@partial(jax.jit, compiler_options=FAST)
def _one_draw_low(key_B, logits_V):
    """Whether and which in one draw over V + 1 outcomes, from low-range Gumbel noise.

    What much public code does.
    """
    p_V = jax.nn.softmax(logits_V)
    both_V = jnp.log(jnp.append(p_V / STEPS, 1 - 1 / STEPS))
    return jax.vmap(
        lambda k: jax.random.categorical(k, both_V, shape=(LENGTH,), mode="low")
    )(key_B)


UNIFORM = np.full(SIZE, 1 / SIZE)
ZIPF = 1 / np.arange(1, SIZE + 1) / (1 / np.arange(1, SIZE + 1)).sum()


@pytest.mark.slow
def test_rare_events():
    assert _faithful(_ancestral, UNIFORM, 8)
    assert _faithful(_ancestral, ZIPF, 40)


@pytest.mark.slow
def test_one_draw_with_low_range_noise_loses_them():
    """It reveals next to none, where 7 are expected: none has probability 9e-4."""
    assert not _faithful(_one_draw_low, UNIFORM, 7)


@pytest.mark.slow
def test_zipf_over_50k():
    assert w.chi_square(_counts(np.log(ZIPF), 2**14, 2), ZIPF) > 1e-4


# -------------------------------------------------------- rules, with more than one bucket of ids

WIDE = Vocab(203, bos=201, eos=0, pad=202, mask=200)
PLAIN = Sampler(Ancestral())


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule, noise",
    [("ancestral", "mask"), ("ancestral", "uniform"), ("first_hitting", "mask")],
)
def test_which_token_does_not_hang_on_whether_one_is_drawn(rule, noise):
    """The same law of 200 ids at two positions, half of a step.

    What is revealed has that law, so the two took numbers of their own.
    """
    n, process, rule = (
        3000,
        w.build_member(noise, "noise", WIDE),
        w.build_member(rule, "samplers.rules", WIDE),
    )
    p_V = np.random.default_rng(0).dirichlet(np.full(200, 0.5))
    logits_BLV = jnp.broadcast_to(
        jnp.asarray(np.log(np.append(p_V, [0, 0, 0]) + 1e-30), jnp.float32), (n, 2, 203)
    )
    start = 200 if process.final else 7
    seen = Canvas(
        jnp.full((n, 2), start), jnp.ones((n, 2)), jnp.zeros((n, 2), bool), Full()
    )
    times = dict(t_B=jnp.full(n, 0.9), s_B=jnp.full(n, 0.5))
    moment = StepView(
        seen, process, ~seen.frozen_BL, **times, log_prob_BR=jnp.zeros((n, 2))
    )
    output = Output(Tempered(Dense(logits_BLV)))
    step = jax.jit(lambda key_B: rule.step(key_B, output, moment, rule.init(seen))[0])
    z_BL = np.asarray(step(keys.per_sample(keys.root(0), jnp.arange(n))))
    first_BL = seen.z_BL[:1]
    t_B = moment.t_B[:1]
    s_B = moment.s_B[:1]
    transition = process.reverse(Dense(logits_BLV[:1]), first_BL, t_B, s_B)
    want_V = np.asarray(step_law(transition, first_BL))[0, 0]
    for z_B in z_BL.T:
        moved_V = np.bincount(z_B[z_B != start], minlength=203)
        assert n / 10 < moved_V.sum() < n * 0.9
        assert (
            w.chi_square(moved_V, np.where(np.arange(203) == start, 0, want_V)) > 1e-4
        )
