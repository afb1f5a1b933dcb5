"""The prediction given by logits: nucleus, confidence and draws against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys
from dlm.core.contracts import Dense, keep_top_p

LOGITS_V = np.log([0.4, 0.3, 0.2, 0.1]).astype(np.float32)
PREDICTION = Dense(jnp.asarray(np.append(LOGITS_V, -np.inf))[None, None])


def test_nucleus_is_the_smallest_set_that_reaches_the_mass():
    for top_p, count in [
        (0.01, 1),
        (0.39, 1),
        (0.41, 2),
        (0.69, 2),
        (0.71, 3),
        (0.95, 4),
        (1.0, 4),
    ]:
        assert np.isfinite(keep_top_p(jnp.asarray(LOGITS_V), top_p)).tolist() == [True] * count + [
            False
        ] * (4 - count)


def test_confidences():
    p_V = np.exp(LOGITS_V)
    for kind, want in dict(top=0.4, margin=0.1, entropy=(p_V * np.log(p_V)).sum()).items():
        np.testing.assert_allclose(PREDICTION.confidence(kind), [[want]], rtol=1e-5)


def test_draws_follow_the_tempered_and_cut_law():
    wide = Dense(jnp.tile(PREDICTION.logits_BLV, (1, 20_000, 1)))
    key_B = keys.per_sample(jax.random.key(0), jnp.arange(1))
    for temperature, top_p in [(1.0, 1.0), (0.5, 1.0), (2.0, 0.6)]:
        want_V = np.exp(LOGITS_V / temperature) / np.exp(LOGITS_V / temperature).sum()
        if top_p < 1:
            want_V = np.where(np.arange(4) < 2, want_V, 0) / want_V[:2].sum()
        got_V = (
            np.bincount(np.asarray(wide.sample(key_B, temperature, top_p))[0], minlength=5) / 20_000
        )
        np.testing.assert_allclose(got_V, np.append(want_V, 0), atol=0.02)
    assert (wide.sample(key_B, 0.0) == 0).all()


def test_a_low_temperature_sharpens_and_the_lowest_is_the_mode():
    """Dense around 1000 lie 6e-5 apart: their quotient by 1e-4 would be off by one nat."""
    high = Dense(jnp.asarray([[[1000.0 - 3 * 2**-14, 1000.0, -jnp.inf, -1e30]]]))
    want = 1 / (1 + np.exp(-3 * 2**-14 / 1e-4))
    np.testing.assert_allclose(high.tempered(1e-4).probs()[0, 0], [1 - want, want, 0, 0], rtol=1e-4)
    key_B = keys.per_sample(jax.random.key(0), jnp.arange(1))
    for exponent in range(7, 46):
        assert high.sample(key_B, 10.0**-exponent) == 1
        assert high.tempered(10.0**-exponent).log_prob(jnp.array([[1]])) == 0
    near = Dense(
        jnp.asarray([[[-1e-7, 0.0, -jnp.inf, -1e30]]])
    )  # below a millionth of a nat two are not told apart by chance
    assert (
        near.tempered(1e-7).log_prob(jnp.array([[1]]))
        == 0
        > near.tempered(1e-6).log_prob(jnp.array([[1]]))
    )
    nothing = Dense(jnp.full((1, 1, 5), -jnp.inf))
    assert not np.isnan(nothing.tempered(0.5).logits_BLV).any()
