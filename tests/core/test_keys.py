"""Keys: streams share no numbers, and a sample's numbers follow from its own index.

The distributions of the draws are tested in tests/laws.
"""

import jax
import jax.numpy as jnp
import numpy as np

from dlm.core import keys


def test_streams_steps_and_samples_are_independent():
    root, other = keys.root(0), keys.root(1)
    streams = [
        keys.key(r, s, i)
        for r in (root, other)
        for s in ("noise", "eval", "init", "sample")
        for i in (0, 1)
    ]
    streams += list(keys.per_sample(keys.key(root, "noise", 0), jnp.arange(4)))
    assert len({jax.random.key_data(k).tobytes() for k in streams}) == len(streams)
    draws_NL = np.asarray(keys.uniform_BL(jnp.stack(streams), 500))
    correlation_NN = np.corrcoef(draws_NL) - np.eye(len(streams))
    assert np.abs(correlation_NN).max() < 4.5 / 500**0.5


def test_a_sample_depends_on_its_index_alone_and_a_position_not_on_the_length():
    key = keys.key(keys.root(0), "noise")
    all_BL = keys.uniform_BL(keys.per_sample(key, jnp.arange(6)), 9)
    some_BL = keys.uniform_BL(keys.per_sample(key, jnp.array([4, 1])), 5)
    assert (some_BL == all_BL[jnp.array([4, 1]), :5]).all()


def test_categorical_never_draws_what_is_impossible_and_takes_what_is_certain():
    logits_BLV = np.full((1, 2000, 70), -np.inf, np.float32)
    logits_BLV[:, :1000, [3, 69]] = 0.0
    logits_BLV[:, 1000:, 64] = -50.0
    ids_L = np.asarray(
        keys.categorical(keys.per_sample(keys.root(0), jnp.arange(1)), logits_BLV)
    )[0]
    assert (
        set(ids_L[:1000]) == {3, 69}
        and abs((ids_L[:1000] == 3).mean() - 0.5) < 0.08
        and (ids_L[1000:] == 64).all()
    )


def test_an_id_without_mass_is_never_drawn(monkeypatch):
    """Neither for a total of 0, nor where parallel partial sums do not grow with the index."""
    for sums_V, mass_V, want in [
        ([0.5, 0.5000002, 1.0], [0.5, 0.0, 0.5], 2),
        ([0.0, 0.4, 1.0], [0.0, 0.4, 0.0], 1),
    ]:
        monkeypatch.setattr(
            jnp, "cumsum", lambda mass_V, axis, sums_V=sums_V: jnp.array(sums_V)
        )
        assert keys._invert(jnp.array(mass_V), jnp.float32(0.5000001)) == want
    monkeypatch.undo()
    key_B = keys.per_sample(keys.root(0), jnp.arange(1))
    far_BLV = (
        jnp.full((1, 3, 200), -jnp.inf).at[:, :, 3].set(0.0).at[0, 1, 150].set(jnp.inf)
    )
    assert keys.categorical(key_B, far_BLV).tolist() == [[3, 150, 3]]
    monkeypatch.setattr(
        jnp, "exp", jnp.zeros_like
    )  # as a compiler may have it that rounds a huge logit differently for the maximum
    assert keys.categorical(key_B, far_BLV).tolist() == [[3, 150, 3]]
