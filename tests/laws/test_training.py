"""What is only trained, by hand.

Losses that claim no likelihood have no law, so each is computed once more from its formula.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Batch, Dense, Layout, Models, Output
from dlm.nn.visibility import two_streams
from tests.laws import worlds as w

pytestmark = pytest.mark.slow
X_BL = np.array([[0, 1, 2, 0, 1, 2], [2, 2, 1, 0, 0, 1]], np.int32)
MASKED_BL = np.array([[0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1]], bool)
ASKED_BL = np.array(
    [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]], bool
)  # what stands before is a prompt, the last one padding
Z_BL = np.where(MASKED_BL, w.VOCAB.mask, X_BL).astype(np.int32)
WEIGHTS_BL = ASKED_BL * np.array(
    [[1, 1, 0.5, 1, 2, 1], [1, 1, 1, 3, 1, 1]], np.float32
)  # so that no two positions count alike
BATCH = Batch(X_BL, WEIGHTS_BL, ASKED_BL, np.arange(2), dict(marked_BL=X_BL % 2), total=2)
T = 0.4
RNG = np.random.default_rng(0)
SEEN_ZV, TIME_V = RNG.normal(size=(w.VOCAB.size, w.VOCAB.size)), 3 * RNG.normal(size=w.VOCAB.size)


def told(canvas):
    """A network that looks at a token and its time, and in a clean stream at the token alone."""

    def says(ids_BL, t_BL):
        logits_BLV = jnp.asarray(SEEN_ZV, jnp.float32)[ids_BL] + t_BL[..., None] * jnp.asarray(
            TIME_V, jnp.float32
        )
        return Dense(jnp.where(jnp.arange(w.VOCAB.size) < w.V, logits_BLV, -jnp.inf))

    both = canvas
    if canvas.visibility.streams == 2:
        both = two_streams(canvas, w.VOCAB.mask)
    clean_BL = canvas.z_BL if both.clean_BL is None else both.clean_BL
    input_BL = both.z_BL
    return Output(says(input_BL, canvas.t_BL), heads=dict(clean=says(clean_BL, 0 * canvas.t_BL)))


def log_p(ids_BL, t):
    """The same in float64, log_p_BLV."""
    logits_BLV = (SEEN_ZV[ids_BL] + np.broadcast_to(t, ids_BL.shape)[..., None] * TIME_V)[
        ..., : w.V
    ]
    return logits_BLV - np.log(np.exp(logits_BLV).sum(-1, keepdims=True))


def nats(ids_BL, t, x_BL=X_BL):
    return -np.take_along_axis(log_p(ids_BL, t), x_BL[..., None], -1)[..., 0]


def training_nats(config, batch=BATCH, z_BL=Z_BL):
    """What the view z costs in training at the time T."""
    objective, models = w.objective(config), Models(told)

    def view(z_BL):
        t_BL = jnp.full(z_BL.shape, T)
        return objective.view_nats(models, batch, jax.random.key(0), z_BL, t_BL)[0]

    return np.asarray(jax.jit(view)(z_BL))


MASKED_NATS_BL = np.where(MASKED_BL, WEIGHTS_BL * nats(Z_BL, T), 0.0)


def test_flat_weights_are_the_nats_of_what_is_masked():
    np.testing.assert_allclose(
        training_nats(dict(name="masked", weights="flat")), MASKED_NATS_BL, rtol=1e-5
    )
    np.testing.assert_allclose(
        training_nats(dict(name="priority")), MASKED_NATS_BL, rtol=1e-5
    )  # its rates are in the density


def test_proseco_reads_its_own_guesses_as_if_nothing_were_noised():
    """z with the likeliest token at each mask, at time 0; every token that counts is predicted
    from that.
    """
    filled_BL = np.where(MASKED_BL, log_p(Z_BL, T).argmax(-1), Z_BL)
    want_BL = MASKED_NATS_BL / T + 0.7 * WEIGHTS_BL * nats(filled_BL, 0.0)
    assert (filled_BL != X_BL).any()
    np.testing.assert_allclose(
        training_nats(dict(name="proseco", temperature=0.0, correction=0.7)), want_BL, rtol=1e-5
    )


def test_the_auxiliary_loss_of_a_block_has_the_weight_of_the_token_that_it_predicts():
    """Where a prompt has weight 0 counting begins with the answer's first token, predicted from
    the prompt's last one.
    """
    layout = Layout(
        positions_BL=np.array([[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2]]),
        segments_BL=np.array([[1] * 6, [1, 1, 1, 2, 2, 2]]),
    )
    follows_BL = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 0]])
    next_BL = follows_BL * np.roll(WEIGHTS_BL, -1, 1) * nats(X_BL, 0.0, np.roll(X_BL, -1, 1))
    assert next_BL[0, 1] > 0 == WEIGHTS_BL[0, 1]
    cost_BL = training_nats(
        dict(name="block", size=2, context="causal", auxiliary=0.3),
        dataclasses.replace(BATCH, layout=layout),
    )
    np.testing.assert_allclose(cost_BL, MASKED_NATS_BL / T + 0.3 * next_BL, rtol=1e-5, atol=1e-6)


def test_each_group_of_a_partition_is_told_the_share_that_is_asked_for():
    """t of the group of rate t, 1 − t of the other; each counts by half and is divided by its own
    rate.
    """
    input_BL = np.full_like(X_BL, w.VOCAB.mask)
    want_BL = np.where(MASKED_BL, nats(input_BL, T) / T, nats(input_BL, 1 - T) / (1 - T)) / 2
    objective, t_BL = w.objective(dict(name="partition")), jnp.full(X_BL.shape, T)
    cost_BL = objective.bound_nats(Models(told), BATCH, jnp.asarray(Z_BL), t_BL)
    np.testing.assert_allclose(cost_BL, WEIGHTS_BL * want_BL, rtol=1e-5)


def test_dropout_predicts_every_token_behind_an_input_that_is_partly_masked():
    seen = []

    def heard(canvas):
        seen.append(canvas)
        return told(canvas)

    loss = w.objective(dict(name="ar", dropout=0.5)).loss(Models(heard), BATCH, jax.random.key(1))
    z_BL, t_BL = np.asarray(seen[0].z_BL), np.asarray(seen[0].t_BL)
    dropped_BL = z_BL == w.VOCAB.mask
    assert (
        (z_BL[~dropped_BL] == X_BL[~dropped_BL]).all()
        and 0 < dropped_BL.sum() < ASKED_BL.sum()
        and not dropped_BL[~ASKED_BL].any()
    )
    assert float(loss.nats_sum) == pytest.approx((WEIGHTS_BL * nats(z_BL, t_BL)).sum(), rel=1e-5)
    assert float(loss.weight_sum) == WEIGHTS_BL.sum()


def test_both_views_of_priority_give_every_position_the_same_weight():
    """The mean over t of rate × masked share is 1 for marked and other tokens, in the first view
    and in its complement.
    """
    u, weight_T = np.polynomial.legendre.leggauss(200)
    t_T1, k = (u[:, None] + 1) / 2, 2.5
    objective = w.objective(dict(name="priority", coupling="complementary", strength=k))
    x_TL = np.tile([[0, 1]], (len(u), 1)).astype(np.int32)
    batch = w.batch_of(x_TL, dict(marked_BL=x_TL))
    object.__setattr__(
        objective,
        "draw_times",
        lambda models, batch, key: (jnp.broadcast_to(t_T1, x_TL.shape), jnp.ones(x_TL.shape)),
    )
    densities, sums = [], objective.sums

    def recorded(batch, nats_BL, masked_BL, time, routing):
        densities.append(np.asarray(time[1]))
        return sums(batch, nats_BL, masked_BL, time, routing)

    object.__setattr__(objective, "sums", recorded)
    objective.loss(Models(told), batch, jax.random.key(0))
    first, inverse = densities
    gone_TL = np.where(x_TL == 1, 1 - (1 - t_T1) ** k, t_T1**k)
    for density_TL, share_TL in ((first, gone_TL), (inverse, 1 - gone_TL)):
        np.testing.assert_allclose(weight_T / 2 @ (share_TL / density_TL), 1.0, atol=1e-3)
    other_TL = np.where(x_TL == 1, (1 - t_T1) / k, (1 - t_T1**k) / (k * t_T1 ** (k - 1)))
    np.testing.assert_allclose(inverse, other_TL, rtol=1e-3)
