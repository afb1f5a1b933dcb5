"""Learned schedules.

A bound for any of them, −log p with the posterior that knows them, and a gradient that is the
enumerated bound's.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Models
from dlm.nn.visibility.full import Full
from dlm.oracle.enumeration import ancestral_law, exact_bound, total_variation
from tests.laws import worlds as w

pytestmark = pytest.mark.slow
POWERS = {"power_V": jnp.array([-0.7, 0.9, 0.2, 0.0, 0.0, 0.0])}
LEARNED = w.objective(dict(name="learned"))
PROCESS = LEARNED.process_of(POWERS)


def test_a_bound_for_any_schedules_and_exact_with_their_posterior():
    for k, world in enumerate(w.WORLDS):
        bound_X = exact_bound(
            LEARNED, world.under(PROCESS, own=True), w.X_XL, w.VOCAB, own=POWERS
        )
        np.testing.assert_allclose(bound_X, -np.log(w.law(world)), atol=1e-5)
        blind_X = exact_bound(
            LEARNED, w.table_net(w.TABLES[k : k + 1]), w.X_XL, w.VOCAB, own=POWERS
        )  # does not know what a mask tells
        assert np.exp(-blind_X).sum() < 1 - 1e-3
    for table in (3, 4):
        layout = w.for_table(table, len(w.X_XL))
        bound_X = exact_bound(LEARNED, w.tables, w.X_XL, w.VOCAB, layout, own=POWERS)
        assert np.exp(-bound_X).sum() < 0.99


def test_its_sampler_draws_from_p_as_steps_grow():
    """Tokens of large w come first, and the law still tends to p.

    What is left falls by half as steps double.
    """
    world, process = w.WORLDS[1], PROCESS

    def law(steps):
        return ancestral_law(
            world.under(process, own=True), process, Full(), steps, w.VOCAB, w.L
        )

    near, nearer = (total_variation(law(steps), w.law(world)) for steps in (16, 32))
    assert 1.6 < near / nearer < 2.4 and nearer < 0.05 and abs(law(16).sum() - 1) < 1e-5


def test_equal_schedules_are_masked_diffusion():
    even = {"power_V": jnp.full(w.VOCAB.size, 0.4)}
    fields = w.for_table(3, len(w.X_XL))
    masked_X = exact_bound(
        w.objective(dict(name="masked")), w.tables, w.X_XL, w.VOCAB, fields
    )
    even_X = exact_bound(LEARNED, w.tables, w.X_XL, w.VOCAB, fields, own=even)
    np.testing.assert_allclose(even_X, masked_X, rtol=1e-5)


SMALL = w.X_XL[::5]


def enumerated(own, table, nodes=48, scored=True):
    """The bound of SMALL as a differentiable function of the schedules and of a table of logits."""
    u, weight = np.polynomial.legendre.leggauss(nodes)
    u = (u + 1) / 2
    t_T, weight_T = (
        u**4 * (35 - 84 * u + 70 * u**2 - 20 * u**3),
        weight / 2 * 140 * u**3 * (1 - u) ** 3,
    )
    models = Models(w.table_net(table), own)
    x_RL, z_RL = np.repeat(SMALL, len(w.Z_ZL), 0), np.tile(w.Z_ZL, (len(SMALL), 1))
    fits_R = ((z_RL == x_RL) | (z_RL == w.VOCAB.mask)).all(1)
    batch, z_RL = w.batch_of(x_RL[fits_R]), z_RL[fits_R]

    def at(t):
        t_RL = jnp.full(z_RL.shape, t)
        bound_nats_R = LEARNED.bound_nats(models, batch, z_RL, t_RL).sum(1)
        q_R = jnp.exp(LEARNED.log_q(batch, z_RL, t_RL, own).sum(1))
        return ((q_R if scored else jax.lax.stop_gradient(q_R)) * bound_nats_R).sum()

    return jax.lax.map(at, jnp.asarray(t_T, jnp.float32)) @ jnp.asarray(
        weight_T, jnp.float32
    )


def test_the_gradient_estimator_is_that_of_the_bound():
    """Over many seeds the mean gradient with respect to schedules and network lies within four
    standard errors of the enumerated one, and far from what is left of it without the score
    function. (The network's along random directions: states seen once say nothing.)
    """
    finite = jnp.where(jnp.isfinite(w.TABLES[3:4]), w.TABLES[3:4], -1e9)
    batch = w.batch_of(SMALL)

    def loss(own, table, key):
        objective = w.objective(dict(name="learned", times="iid"))
        return objective.loss(Models(w.table_net(table), own), batch, key).nats_sum

    want = jax.jit(jax.grad(enumerated, (0, 1)))(POWERS, finite)
    blind = jax.jit(jax.grad(lambda own: enumerated(own, finite, scored=False)))(POWERS)
    keys = jax.random.split(jax.random.key(0), 6000)
    gradients = jax.jit(
        lambda keys: jax.lax.map(
            lambda key: jax.grad(loss, (0, 1))(POWERS, finite, key),
            keys,
            batch_size=100,
        )
    )(keys)
    assert _distance(gradients[0]["power_V"], want[0]["power_V"])[: w.V].max() < 4
    assert _distance(gradients[0]["power_V"], blind["power_V"])[: w.V].max() > 8
    directions = np.random.default_rng(0).normal(size=(4, want[1].size))
    assert (
        _distance(
            np.asarray(gradients[1]).reshape(len(keys), -1) @ directions.T,
            directions @ np.ravel(want[1]),
        ).max()
        < 4
    )


def _distance(gradients_S, want):
    """|mean − want| in standard errors."""
    gradients_S = np.asarray(gradients_S, np.float64)
    return np.abs(gradients_S.mean(0) - np.asarray(want)) / np.maximum(
        gradients_S.std(0, ddof=1) / len(gradients_S) ** 0.5, 1e-9
    )
