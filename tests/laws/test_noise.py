"""Noise.

Schedules end exactly at 1 and 0, and a draw depends on the global sample number and the step, on
nothing else.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core import keys
from dlm.core.contracts import Batch, Dense, Layout, Models, Output
from dlm.oracle.world import views
from tests.laws import worlds as w

every_process = w.first_of_each("process", w.PROCESSES)
B, L = 8, 5


@every_process
def test_all_that_is_not_kept_is_a_mask_or_noise_and_speeds_are_derivatives(process):
    """At t = 0 all is clean, at t = 1 nothing is left; α (m' − α'/α m) and α (u' − α'/α u) agree
    with autodiff, next to t = 0 too.
    """
    noise = w.process(process)
    t_T = jnp.linspace(0, 1, 257)
    a_T, noise_probs = jax.jit(lambda t: (noise.alpha(t), noise.noise_probs(t)))(t_T)
    log_q = jax.jit(lambda x_BL: noise.log_q(w.Z_ZL, jnp.ones((1, 1)), x_BL))
    prior = log_q(0 * w.Z_ZL)
    assert (
        a_T[0] == 1
        and a_T[-1] == 0
        and sum(noise_probs)[0] == 0
        and sum(noise_probs)[-1] == 1
    )
    assert (np.diff(a_T) <= 0).all() and (
        np.diff(a_T[:128]) < 0
    ).all()  # float32 has nothing left below α = 6e-8
    for x in range(w.V):  # the prior does not know x
        np.testing.assert_array_equal(prior, log_q(np.full_like(w.Z_ZL, x)))

    @jax.jit
    def both(t_T):
        (mask, uniform), slopes = jax.jvp(
            noise.noise_probs, (t_T,), (jnp.ones_like(t_T),)
        )
        a, slope = jax.jvp(noise.alpha, (t_T,), (jnp.ones_like(t_T),))
        return noise.noise_rates(t_T), (
            a * slopes[0] - slope * mask,
            a * slopes[1] - slope * uniform,
        )

    for t, rtol in ((t_T[1:-1], 2e-5), (jnp.float32([1e-6]), 1e-4)):
        for measured, expected in zip(*both(t), strict=True):
            np.testing.assert_allclose(
                measured, expected, rtol=rtol, atol=5e-6
            )  # JAX's derivative of expm1 cancels near −1


@pytest.mark.parametrize("process", w.ABSORBING, ids=w.title)
def test_rates_are_accurate_next_to_the_clean_end(process):
    noise, small = w.process(process), jnp.float32(1e-6)
    gone, slope, rate = jax.jit(
        lambda t: (
            *jax.value_and_grad(noise.schedule.noised)(t),
            noise.schedule.rate(t),
        )
    )(small)
    np.testing.assert_allclose(
        rate * 1e-6, np.float64(1e-6) * np.float64(slope) / np.float64(gone), rtol=1e-4
    )


@every_process
def test_corruption_follows_log_q(process):
    """z is drawn from the law that the enumerations use, and what is not noisable stays."""
    noise, n = w.process(process), 20_000
    x_BL = np.broadcast_to(np.array([[2, 0, 1]], np.int32), (n, 3))
    noisable_BL = np.broadcast_to(np.array([[True, False, True]]), (n, 3))
    t_B1 = np.full((n, 1), 0.4, np.float32)
    z_BL = np.asarray(
        jax.jit(noise.corrupt)(
            keys.per_sample(keys.root(0), jnp.arange(n)), x_BL, t_B1, noisable_BL
        )
    )
    every_ZL = np.concatenate([w.Z_ZL[:, :1], 0 * w.Z_ZL[:, :1], w.Z_ZL[:, 2:]], 1)[
        w.Z_ZL[:, 1] == 0
    ]
    log_q_ZL = np.asarray(
        jax.jit(noise.log_q)(every_ZL, t_B1[: len(every_ZL)], x_BL[: len(every_ZL)]),
        np.float64,
    )[:, [0, 2]]
    drawn_Z = np.array([(z_BL == z_L).all(-1).sum() for z_L in every_ZL])
    assert drawn_Z.sum() == n
    assert w.chi_square(drawn_Z, np.exp(log_q_ZL.sum(-1))) > 1e-4


def _prefix_net(canvas):
    """Any network that reads leftwards, so that what follows a sequence cannot matter to it."""
    table_VV = (
        np.random.default_rng(0)
        .normal(size=(w.VOCAB.size, w.VOCAB.size))
        .astype(np.float32)
    )
    view_BLL = views(canvas, w.VOCAB.mask)
    logits_BLV = (
        jnp.asarray(table_VV)[view_BLL] * np.tri(view_BLL.shape[1], k=-1)[:, :, None]
    ).sum(2) + canvas.t_BL[..., None]
    return Output(
        Dense(jnp.where(jnp.arange(w.VOCAB.size) < w.V, logits_BLV, -jnp.inf)),
        heads=dict(quality=logits_BLV[..., 0]),
    )


def _batch():
    x_BL = np.random.default_rng(1).integers(0, w.V, (B, L)).astype(np.int32)
    return w.batch_of(x_BL, marked_BL=jnp.asarray(x_BL % 2))


def _padded(batch):
    """The batch with three positions more in each row."""
    more = ((0, 0), (0, 3))
    return Batch(
        jnp.pad(batch.tokens_BL, more, constant_values=w.VOCAB.pad),
        jnp.pad(batch.weights_BL, more),
        jnp.pad(batch.noisable_BL, more),
        batch.index_B,
        Layout(jnp.pad(jnp.ones((B, L), jnp.int32), more)),
        marked_BL=jnp.pad(batch.marked_BL, more),
        total=B,
    )


@w.one_of_each
def test_loss_does_not_depend_on_how_a_batch_is_cut_or_padded(member):
    """Microbatches, hosts, the order of rows and padding leave the sums alone; another step or
    another sample number changes the noise.
    """
    objective, batch = w.objective(member), _batch()
    loss = jax.jit(
        lambda batch, step: objective.loss(
            Models(_prefix_net), batch, keys.key(keys.root(0), "noise", step)
        )
    )

    def add(*losses):
        return jax.tree.map(lambda *sums: sum(sums), *losses)

    def total(batch, *parts, step=3):
        return add(*(loss(w.rows(batch, np.array(p)), step) for p in parts))

    whole, long = total(batch, range(B)), _padded(batch)
    halves = ([range(4), range(4, B)], [range(0, B, 2), range(1, B, 2)])
    for measured in (
        total(batch, [5, 2, 7, 0, 1, 3, 6, 4]),
        *(total(long, *parts) for parts in halves),
    ):
        np.testing.assert_allclose(measured.nats_sum, whole.nats_sum, rtol=1e-6)
        assert measured.weight_sum == whole.weight_sum and jax.tree.all(
            jax.tree.map(np.array_equal, measured.metrics, whole.metrics)
        )
    assert (objective.claims == "exact") == (
        total(batch, range(B), step=4).nats_sum == whole.nats_sum
    )


@pytest.mark.parametrize(
    "process", list({p["name"]: p for p in w.PROCESSES}.values()), ids=w.title
)
def test_masks_belong_to_the_sample_not_to_its_place(process):
    noise, x_BL = w.process(process), np.tile(np.arange(w.V, dtype=np.int32), (6, 2))
    t_B1, all_BL = jnp.full((6, 1), 0.5), jnp.ones(x_BL.shape, bool)
    corrupt = jax.jit(
        lambda index_B: noise.corrupt(
            keys.per_sample(keys.root(0), index_B), x_BL, t_B1, all_BL
        )
    )

    def draw(index_B):
        return np.asarray(corrupt(np.array(index_B)))

    first_BL = draw([0, 1, 2, 3, 4, 5])
    assert (draw([5, 4, 3, 2, 1, 0])[::-1] == first_BL).all()
    assert (draw([10, 11, 12, 13, 14, 15]) != first_BL).any()
    assert len({row.tobytes() for row in first_BL}) > 1, "rows are not noised alike"
