"""Categorical draws have no temperature bias: chi-square over a million draws, and the rare events that Gumbel noise loses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.run import keys
from dlm.run.contracts import Canvas, Logits, Output
from dlm.run.spec import Vocab
from tests.laws import worlds as w

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
    draw = jax.jit(lambda key_B, logits: keys.categorical(key_B, jnp.broadcast_to(logits, (rows, 256, len(logits_V)))))
    total_V = np.zeros(len(logits_V), np.int64)
    for i in range(draws // (rows * 256)):
        key_B = keys.per_sample(keys.root(i), jnp.arange(rows))
        total_V += np.bincount(np.asarray(draw(key_B, jnp.asarray(logits_V, jnp.float32))).ravel(), minlength=len(logits_V))
    return total_V


@pytest.mark.parametrize("name", LAWS)
def test_a_million_draws(name):
    logits_V = LAWS[name]
    p_V = np.exp(logits_V - logits_V.max())
    count_V = _counts(logits_V, 2**20, 512)
    assert (count_V[p_V == 0] == 0).all()
    assert w.chi_square(count_V, p_V) > 1e-4


@pytest.mark.slow
def test_zipf_over_50k():
    p_V = 1 / np.arange(1, 50_001)
    assert w.chi_square(_counts(np.log(p_V), 2**15, 8), p_V) > 1e-4


# ------------------------------------------------------------------------------------------- one token in 1,024 (2409.02908)

SIZE, STEPS, ROWS, LENGTH, PASSES = 50_000, 1024, 10, 1024, 4
BIG = Vocab(SIZE + 3, bos=SIZE + 1, eos=0, pad=SIZE + 2, mask=SIZE)


def _faithful(found, log_p_V):
    """Do as many tokens come up as should, with the mean −log p that they should have?"""
    expected = ROWS * LENGTH * PASSES / STEPS
    p_V = np.exp(log_p_V)
    entropy = -(p_V * log_p_V).sum()
    spread = np.sqrt((p_V * (log_p_V + entropy) ** 2).sum())
    if abs(len(found) - expected) > 4 * expected**0.5:
        return False
    return abs(-log_p_V[found].mean() - entropy) <= 4 * max(spread, 1e-6) / len(found) ** 0.5 + 1e-4


def _found(step, logits_V):
    """The ids revealed by the first of 1,024 steps from an all-mask canvas."""
    z_PBL = [np.asarray(step(keys.per_sample(keys.root(i), jnp.arange(ROWS)), jnp.asarray(logits_V, jnp.float32))) for i in range(PASSES)]
    z_PBL = np.stack(z_PBL)
    return z_PBL[z_PBL != SIZE]


@jax.jit
def _ancestral(key_B, logits_V):
    from dlm.samplers.ancestral import Ancestral

    noise = w.spec.build(dict(name="mask", schedule="linear"), "noise", BIG)
    z_BL = jnp.full((ROWS, LENGTH), SIZE, jnp.int32)
    logits_BLV = jnp.broadcast_to(jnp.pad(logits_V, (0, 3), constant_values=-jnp.inf), (ROWS, LENGTH, SIZE + 3))
    canvas = Canvas(z_BL, jnp.ones(z_BL.shape), jnp.zeros(z_BL.shape, bool))
    t_B = jnp.ones(ROWS)
    done, _ = Ancestral().step(key_B, Output(Logits(logits_BLV)), canvas, z_BL == SIZE, t_B, t_B - 1 / STEPS, (), noise)
    return done.z_BL


@jax.jit
def _one_draw_low(key_B, logits_V):
    """Whether and which in one draw over V + 1 outcomes, from low-range Gumbel noise: what much public code does."""
    p_V = jax.nn.softmax(logits_V)
    both_V = jnp.log(jnp.append(p_V / STEPS, 1 - 1 / STEPS))
    return jax.vmap(lambda k: jax.random.categorical(k, both_V, shape=(LENGTH,), mode="low"))(key_B)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["uniform", "zipf"])
def test_rare_events(law):
    log_p_V = np.zeros(SIZE) if law == "uniform" else -np.log(np.arange(1, SIZE + 1))
    log_p_V = log_p_V - np.logaddexp.reduce(log_p_V)
    assert _faithful(_found(_ancestral, log_p_V), log_p_V)
    assert not _faithful(_found(_one_draw_low, log_p_V), log_p_V), "the low-range Gumbel is seen to fail"
