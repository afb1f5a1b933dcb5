"""Losses that are only trained, computed once more from their formulas.

They claim no likelihood, so no law holds for them.
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
V, ALL = w.V, w.VOCAB.size
T = 0.4

# Two texts, some of their tokens masked. The first tokens are a prompt, the last ones padding.
X_BL = np.array([[0, 1, 2, 0, 1, 2], [2, 2, 1, 0, 0, 1]], np.int32)
MASKED_BL = np.array([[0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 1, 1]], bool)
NOISABLE_BL = np.array([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]], bool)
MASK_BL = np.full_like(X_BL, w.VOCAB.mask)
Z_BL = np.where(MASKED_BL, MASK_BL, X_BL)
# No two positions count alike.
EACH_BL = np.array([[1, 1, 0.5, 1, 2, 1], [1, 1, 1, 3, 1, 1]], np.float32)
WEIGHTS_BL = NOISABLE_BL * EACH_BL
INDEX_B = np.arange(2)
BATCH = Batch(X_BL, WEIGHTS_BL, NOISABLE_BL, INDEX_B, marked_BL=X_BL % 2, total=2)

RNG = np.random.default_rng(0)
BY_TOKEN_ZV = RNG.normal(size=(ALL, ALL))
BY_TIME_V = 3 * RNG.normal(size=ALL)
KEY = jax.random.key(0)


def prediction_of(ids_BL, t_BL):
    """Logits that depend on a token and its time."""
    by_token_ZV = jnp.asarray(BY_TOKEN_ZV, jnp.float32)
    by_time_V = jnp.asarray(BY_TIME_V, jnp.float32)
    logits_BLV = by_token_ZV[ids_BL] + t_BL[..., None] * by_time_V
    generated_V = jnp.arange(ALL) < V
    return Dense(jnp.where(generated_V, logits_BLV, -jnp.inf))


def net(canvas):
    """A network that reads a token and its time, and in a clean stream the token alone."""
    both = canvas
    if canvas.visibility.streams == 2:
        both = two_streams(canvas, w.VOCAB.mask)
    clean_BL = canvas.z_BL
    if both.clean_BL is not None:
        clean_BL = both.clean_BL
    clean = prediction_of(clean_BL, 0 * canvas.t_BL)
    prediction = prediction_of(both.z_BL, canvas.t_BL)
    return Output(prediction, heads=dict(clean=clean))


def log_p(ids_BL, t):
    """The same in float64, log_p_BLV."""
    t_BL = np.broadcast_to(t, ids_BL.shape)
    logits_BLV = BY_TOKEN_ZV[ids_BL] + t_BL[..., None] * BY_TIME_V
    logits_BLV = logits_BLV[..., :V]
    total_BL1 = np.exp(logits_BLV).sum(-1, keepdims=True)
    return logits_BLV - np.log(total_BL1)


def nats(ids_BL, t, x_BL=X_BL):
    """The cost of the tokens x behind these ids."""
    log_p_BLV = log_p(ids_BL, t)
    log_p_BL1 = np.take_along_axis(log_p_BLV, x_BL[..., None], -1)
    return -log_p_BL1[..., 0]


def view_nats(batch=BATCH, **config):
    """The cost of the view z in training at the time T."""
    objective = w.objective(config)

    def view(z_BL):
        t_BL = jnp.full(z_BL.shape, T)
        nats_BL, _ = objective.view_nats(Models(net), batch, KEY, z_BL, t_BL)
        return nats_BL

    return np.asarray(jax.jit(view)(Z_BL))


MASKED_NATS_BL = np.where(MASKED_BL, WEIGHTS_BL * nats(Z_BL, T), 0.0)


def test_flat_weights_are_the_nats_of_masked_tokens():
    flat_BL = view_nats(name="masked", weights="flat")
    np.testing.assert_allclose(flat_BL, MASKED_NATS_BL, rtol=1e-5)
    # The rates of priority are in the density of its times.
    priority_BL = view_nats(name="priority")
    np.testing.assert_allclose(priority_BL, MASKED_NATS_BL, rtol=1e-5)


def test_proseco_reads_its_own_guesses_as_if_nothing_were_noised():
    """Every token that counts is predicted from the most likely tokens, at time 0."""
    best_BL = log_p(Z_BL, T).argmax(-1)
    filled_BL = np.where(MASKED_BL, best_BL, Z_BL)
    assert (filled_BL != X_BL).any()
    dense_BL = WEIGHTS_BL * nats(filled_BL, 0.0)
    expected_BL = MASKED_NATS_BL / T + 0.7 * dense_BL
    proseco_BL = view_nats(name="proseco", temperature=0.0, correction=0.7)
    np.testing.assert_allclose(proseco_BL, expected_BL, rtol=1e-5)


def test_the_auxiliary_loss_of_a_block_has_the_weight_of_the_token_that_it_predicts():
    """After a prompt of weight 0 the answer's first token counts, predicted from the prompt."""
    positions_BL = np.array([[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2]])
    segments_BL = np.array([[1] * 6, [1, 1, 1, 2, 2, 2]])
    layout = Layout(segments_BL, positions_BL)
    # The last token of a segment has none behind it.
    follows_BL = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 0, 1, 1, 0]])
    next_x_BL = np.roll(X_BL, -1, 1)
    next_weights_BL = np.roll(WEIGHTS_BL, -1, 1)
    next_BL = follows_BL * next_weights_BL * nats(X_BL, 0.0, next_x_BL)
    assert next_BL[0, 1] > 0 == WEIGHTS_BL[0, 1]
    batch = dataclasses.replace(BATCH, layout=layout)
    cost_BL = view_nats(batch, name="block", size=2, context="causal", auxiliary=0.3)
    expected_BL = MASKED_NATS_BL / T + 0.3 * next_BL
    np.testing.assert_allclose(cost_BL, expected_BL, rtol=1e-5, atol=1e-6)


def test_each_group_of_a_partition_is_given_the_share_that_is_requested():
    """t for the group of rate t, 1 − t for the other; each counts by half, over its own rate."""
    requested_BL = nats(MASK_BL, T) / T
    others_BL = nats(MASK_BL, 1 - T) / (1 - T)
    expected_BL = np.where(MASKED_BL, requested_BL, others_BL) / 2
    objective = w.objective(dict(name="partition"))
    t_BL = jnp.full(X_BL.shape, T)
    cost_BL = objective.bound_nats(Models(net), BATCH, jnp.asarray(Z_BL), t_BL)
    np.testing.assert_allclose(cost_BL, WEIGHTS_BL * expected_BL, rtol=1e-5)


def test_dropout_predicts_every_token_behind_an_input_that_is_partly_masked():
    canvases = []

    def recorded(canvas):
        canvases.append(canvas)
        return net(canvas)

    objective = w.objective(dict(name="ar", dropout=0.5))
    loss = objective.loss(Models(recorded), BATCH, jax.random.key(1))
    z_BL = np.asarray(canvases[0].z_BL)
    t_BL = np.asarray(canvases[0].t_BL)
    # Some tokens of the answers are masks, and none of the prompts.
    dropped_BL = z_BL == w.VOCAB.mask
    assert (z_BL[~dropped_BL] == X_BL[~dropped_BL]).all()
    assert 0 < dropped_BL.sum() < NOISABLE_BL.sum()
    assert not dropped_BL[~NOISABLE_BL].any()
    expected = (WEIGHTS_BL * nats(z_BL, t_BL)).sum()
    assert float(loss.nats_sum) == pytest.approx(expected, rel=1e-5)
    assert float(loss.weight_sum) == WEIGHTS_BL.sum()


def test_both_views_of_priority_give_every_position_the_same_weight():
    """The mean over t of rate × masked share is 1 for all tokens, in both views."""
    u_T, weight_T = np.polynomial.legendre.leggauss(200)
    t_T1, k = (u_T[:, None] + 1) / 2, 2.5
    # In each row an unmarked token and a marked one.
    x_TL = np.tile([[0, 1]], (len(u_T), 1)).astype(np.int32)
    batch = w.batch_of(x_TL, marked_BL=x_TL)
    objective = w.objective(dict(name="priority", coupling="complementary", strength=k))
    times = jnp.broadcast_to(t_T1, x_TL.shape), jnp.ones(x_TL.shape)
    densities, sums = [], objective.sums

    def recorded(batch, nats_BL, masked_BL, time, routing):
        densities.append(np.asarray(time[1]))
        return sums(batch, nats_BL, masked_BL, time, routing)

    object.__setattr__(objective, "draw_times", lambda models, batch, key: times)
    object.__setattr__(objective, "sums", recorded)
    objective.loss(Models(net), batch, KEY)
    first_TL, inverse_TL = densities
    early_TL, late_TL = 1 - (1 - t_T1) ** k, t_T1**k
    masked_TL = np.where(x_TL == 1, early_TL, late_TL)
    for density_TL, share_TL in ((first_TL, masked_TL), (inverse_TL, 1 - masked_TL)):
        mean_L = weight_T / 2 @ (share_TL / density_TL)
        np.testing.assert_allclose(mean_L, 1.0, atol=1e-3)
    # The inverse is drawn at 1 − t, with the schedules exchanged.
    late_rate_T1 = (1 - t_T1) / k
    early_rate_T1 = (1 - t_T1**k) / (k * t_T1 ** (k - 1))
    expected_TL = np.where(x_TL == 1, late_rate_T1, early_rate_T1)
    np.testing.assert_allclose(inverse_TL, expected_TL, rtol=1e-3)
