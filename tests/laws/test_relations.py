"""What one objective is of another.

Reductions that hold for any network, closed forms against definitions, planted wrong ones.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.contracts import Canvas, Dense, Models, Output
from dlm.objectives.masked import Masked
from dlm.oracle.enumeration import exact_bound
from tests import tiny
from tests.laws import worlds as w

pytestmark = pytest.mark.slow
P_X = w.law(w.WORLDS[0])
RANDOM = w.for_table(3, len(w.X_XL))


def bound(**config):
    return exact_bound(w.objective(config), w.tables, w.X_XL, w.VOCAB, RANDOM)


@pytest.mark.parametrize(
    "config",
    [
        dict(name="masked", pattern="count"),
        dict(name="block", size=3),
        dict(name="block", size=3, pattern="count", context="causal"),
        dict(name="any_order"),
        dict(name="partition"),
        dict(name="hybrid", process=dict(name="mask")),
        dict(name="hybrid", process=dict(name="hybrid", uniform=0.0)),
        dict(name="learned"),
    ],
    ids=w.title,
)
def test_another_way_to_the_masked_bound(config):
    """For a network that is told which tokens it sees and nothing else."""
    np.testing.assert_allclose(bound(**config), bound(name="masked"), rtol=1e-5)


def reported(member=None, **config):
    """All that the laws of a bound look at: programs line by line, and their constants."""
    member, batch = member or w.objective(config), w.batch_of(w.X_XL, RANDOM)

    def of_z(z_BL, t_BL):
        return (
            member.bound_nats(Models(w.tables), batch, z_BL, t_BL),
            member.log_q(batch, z_BL, t_BL),
        )

    def both(key, *at):
        return (member.bound(Models(w.tables), batch, key, 4), of_z(*at))

    lines, constants = tiny.program(
        both, jax.random.key(0), jnp.asarray(w.X_XL), jnp.ones(w.X_XL.shape)
    )
    return (
        member.claims,
        member.visibility,
        member.time_cells(w.L),
        member.support(w.VOCAB, w.L),
        lines,
    ), constants


@pytest.mark.parametrize("stem", w.INHERIT)
def test_what_only_trains_otherwise_reports_masked_diffusion_s_bound(stem):
    """Line by line, so that nothing need be tried again of it that tests/laws/test_bounds.py tries
    of masked diffusion.
    """
    fields = {f.name for f in dataclasses.fields(w.objective(dict(name=stem)))}
    for changes in (
        {},
        dict(pattern="count"),
        dict(process=dict(name="mask", schedule="cosine")),
    ):
        if changes.keys() <= fields:
            (said, constants), (want, expected) = (
                reported(name=stem, **changes),
                reported(name="masked", **changes),
            )
            assert said == want and (said == reported(name="masked")[0]) == (
                not changes
            )
            tiny.identical(constants, expected)
    (said, constants), (want, expected) = (
        reported(w.objective(dict(name=name)).counted()) for name in (stem, "masked")
    )
    assert said == want
    tiny.identical(constants, expected)


@pytest.mark.parametrize("pattern", ["bernoulli", "count"])
def test_blocks_of_one_have_the_likelihood_of_left_to_right(pattern):
    np.testing.assert_allclose(
        bound(name="block", size=1, pattern=pattern), bound(name="ar"), rtol=1e-5
    )


@pytest.mark.parametrize(
    "process",
    [dict(name="mask"), dict(name="uniform"), dict(name="hybrid", uniform=0.4)],
    ids=w.title,
)
@pytest.mark.parametrize("t", [0.1, 0.6, 0.95])
def test_the_mixing_bound_is_the_divergence_of_the_reverse_rates(process, t):
    """Σ_{v ≠ z} b − a + a log(a/b), a and b the rates of z → v under the true x and under x̂, in
    float64 from the masses by differences.
    """
    noise = w.process(process)
    rng = np.random.default_rng(0)
    x_LV = np.zeros((w.L, 6))
    x_LV[:, : w.V] = rng.dirichlet(np.ones(w.V), w.L)
    output = Output(Dense(np.log(np.maximum(x_LV, 1e-300))[None].astype(np.float32)))
    objective, batch = (
        w.objective(dict(name="hybrid", process=process)),
        w.batch_of(w.X_XL[5:6]),
    )
    models = Models(lambda canvas: output)
    bound_nats = jax.jit(
        lambda z_1L: objective.bound_nats(models, batch, z_1L, jnp.full((1, w.L), t))
    )

    def noise_probs(t):
        t_1 = jnp.float32(t)
        mask, uniform = (float(m) for m in noise.noise_probs(t_1))
        beta_V = np.zeros(6)
        beta_V[: w.V], beta_V[w.VOCAB.mask] = uniform / w.V, mask
        return 1 - mask - uniform, beta_V

    with jax.enable_x64(True):
        (a, beta_V), (a2, after_V), (a1, before_V) = (
            noise_probs(t),
            noise_probs(t + 1e-3),
            noise_probs(t - 1e-3),
        )
    leaves_V = (after_V - before_V) / 2e-3 - (a2 - a1) / 2e-3 / a * beta_V
    for z_L in w.Z_ZL[:: 7 if process["name"] != "uniform" else 5]:
        q_LV, p_LV = a * np.eye(6)[w.X_XL[5]] + beta_V, a * x_LV + beta_V
        i_L = np.arange(w.L)
        if (q_LV[i_L, z_L] == 0).any():
            continue
        rate_LV, model_LV = (
            leaves_V[z_L][:, None] * m / m[i_L, z_L][:, None] for m in (q_LV, p_LV)
        )
        other_LV = np.arange(6) != z_L[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            each_LV = (
                model_LV
                - rate_LV
                + np.where(rate_LV > 0, rate_LV * np.log(rate_LV / model_LV), 0.0)
            )
        want_L = np.where(other_LV, each_LV, 0.0).sum(1)
        np.testing.assert_allclose(
            bound_nats(z_L[None])[0], want_L, rtol=5e-3, atol=1e-4
        )


# ---------------------------------------------------------------------------------- planted wrong


@dataclass(frozen=True)
class JointSubTokens(Masked):
    """All that is masked predicted as one, weighed by 1/t like marginals.

    Why published perplexities were withdrawn.
    """

    def bound_nats(self, models, batch, z_BL, t_BL):
        joint_B = -jnp.log(_mass(batch.tokens_BL) / _mass(z_BL))
        first_BL = jnp.arange(w.L) == jnp.argmax(z_BL == w.VOCAB.mask, 1)[:, None]
        return jnp.where(
            first_BL & (z_BL == w.VOCAB.mask), joint_B[:, None] / t_BL, 0.0
        )


@dataclass(frozen=True)
class PosteriorForLeaveOneOut:
    """A denoiser for uniform noise that also takes z_i itself as evidence, as a plain cross-
    entropy teaches it to.
    """

    world: int

    def __call__(self, canvas: Canvas, **options):
        return w.WORLDS[self.world].under(w.process(dict(name="uniform")), own=True)(
            canvas, **options
        )


def _mass(z_BL):
    """p(what is not masked) in WORLDS[0]."""
    fits_BX = ((z_BL[:, None] == w.X_XL) | (z_BL[:, None] == w.VOCAB.mask)).all(-1)
    return fits_BX @ jnp.asarray(P_X, jnp.float32)


def test_a_joint_loss_of_sub_tokens_spends_too_much():
    wrong = JointSubTokens(process=w.process(dict(name="mask")), vocab=w.VOCAB)
    bound_X = exact_bound(wrong, w.tables, w.X_XL, w.VOCAB, w.for_table(0, len(w.X_XL)))
    assert np.exp(-bound_X).sum() > 1.1
    assert P_X @ bound_X < w.WORLDS[0].entropy() - 0.02, "below the entropy"


def test_the_wrong_posterior_does_not_reach_log_p():
    objective = w.objective(dict(name="hybrid", process=dict(name="uniform")))
    bound_X = exact_bound(objective, PosteriorForLeaveOneOut(0), w.X_XL, w.VOCAB)
    assert (
        P_X @ bound_X > w.WORLDS[0].entropy() + 0.05 and np.exp(-bound_X).sum() < 0.99
    )
