"""The prediction given by logits: nucleus, confidence and samples against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.contracts import Dense, keep_top_p

P_V = np.array([0.4, 0.3, 0.2, 0.1])
LOGITS_V = np.log(P_V).astype(np.float32)
EXCLUDED_V = np.append(LOGITS_V, -np.inf)
PREDICTION = Dense(jnp.asarray(EXCLUDED_V)[None, None])
DRAWS = 20_000
KEY = jax.random.key(0)


def test_nucleus_is_the_smallest_set_that_reaches_the_mass():
    sizes = {0.01: 1, 0.39: 1, 0.41: 2, 0.69: 2}
    sizes |= {0.71: 3, 0.95: 4, 1.0: 4}
    for top_p, size in sizes.items():
        cut_V = keep_top_p(jnp.asarray(LOGITS_V), top_p)
        # Ids are ordered by their probabilities.
        expected = [True] * size + [False] * (4 - size)
        assert np.isfinite(cut_V).tolist() == expected


def test_confidences():
    p_V = np.exp(LOGITS_V)
    negative_entropy = (p_V * np.log(p_V)).sum()
    expected = dict(top=0.4, margin=0.1, entropy=negative_entropy)
    for kind, value in expected.items():
        confidence_BL = PREDICTION.confidence(kind)
        np.testing.assert_allclose(confidence_BL, [[value]], rtol=1e-5)


def test_draws_follow_the_tempered_and_cut_law():
    wide = Dense(jnp.tile(PREDICTION.logits_BLV, (1, DRAWS, 1)))
    key_B = keys.per_sample(KEY, jnp.arange(1))
    for temperature, top_p in [(1.0, 1.0), (0.5, 1.0), (2.0, 0.6)]:
        weight_V = np.exp(LOGITS_V / temperature)
        expected_V = weight_V / weight_V.sum()
        if top_p < 1:
            # The two most likely ids form the nucleus.
            inside_V = np.where(np.arange(4) < 2, expected_V, 0)
            expected_V = inside_V / expected_V[:2].sum()
        ids_BL = wide.sample(key_B, temperature, top_p)
        count_V = np.bincount(np.asarray(ids_BL)[0], minlength=5)
        # The excluded id comes last.
        expected_V = np.append(expected_V, 0)
        np.testing.assert_allclose(count_V / DRAWS, expected_V, atol=0.02)
    assert (wide.sample(key_B, 0.0) == 0).all()


def test_a_low_temperature_sharpens_and_the_lowest_is_the_mode():
    """Logits around 1000 are 6e-5 apart: their quotient by 1e-4 would be off by one nat."""
    gap = 3 * 2**-14
    logits = [1000.0 - gap, 1000.0, -jnp.inf, -1e30]
    high = Dense(jnp.asarray([[logits]]))
    expected = 1 / (1 + np.exp(-gap / 1e-4))
    p_V = high.tempered(1e-4).probs()[0, 0]
    np.testing.assert_allclose(p_V, [1 - expected, expected, 0, 0], rtol=1e-4)
    key_B = keys.per_sample(KEY, jnp.arange(1))
    one_BL = jnp.array([[1]])
    for exponent in range(7, 46):
        temperature = 10.0**-exponent
        assert high.sample(key_B, temperature) == 1
        assert high.tempered(temperature).log_prob(one_BL) == 0


def test_logits_within_a_millionth_of_a_nat_are_not_told_apart_by_chance():
    logits = [-1e-7, 0.0, -jnp.inf, -1e30]
    near = Dense(jnp.asarray([[logits]]))
    one_BL = jnp.array([[1]])
    assert near.tempered(1e-7).log_prob(one_BL) == 0
    assert near.tempered(1e-6).log_prob(one_BL) < 0
    nothing = Dense(jnp.full((1, 1, 5), -jnp.inf))
    assert not np.isnan(nothing.tempered(0.5).logits_BLV).any()
