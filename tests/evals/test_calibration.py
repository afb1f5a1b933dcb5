"""Calibration: the error of a model whose confidence and accuracy are known."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.config import build_member
from dlm.core.contracts import Dense, Models, Output
from dlm.evals import calibration
from dlm.evals.calibration import Calibration
from dlm.objectives.ar import AR
from dlm.objectives.masked import Masked
from tests import tiny
from tests.evals.asked import scores


def measured(objective, tokens_BL, logits_V, batches=1, **fields):
    """The scores of a model that predicts one law at every position."""

    def net(canvas):
        assert canvas.visibility == objective.visibility
        shape = (*canvas.z_BL.shape, logits_V.shape[-1])
        return Output(Dense(jnp.broadcast_to(jnp.asarray(logits_V), shape)))

    def counted(count):
        return jax.jit(lambda *arguments: count(experiment, *arguments))

    limits = []
    run = types.SimpleNamespace(nn=types.SimpleNamespace(vocab=tiny.VOCAB))
    experiment = types.SimpleNamespace(
        net=lambda params: net,
        objective=objective,
        run=run,
        models=lambda params: Models(net),
        counted=counted,
    )
    context = types.SimpleNamespace(
        experiment=experiment,
        params=None,
        key=jax.random.key(0),
        details={},
        held_out=lambda limit: (
            limits.append(limit) or iter([tiny.batch(tokens_BL)] * batches)
        ),
    )
    return scores(Calibration(**fields), context), limits


MASKED = Masked(process=build_member("mask", "noise", tiny.VOCAB), vocab=tiny.VOCAB)


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective", [AR(vocab=tiny.VOCAB), MASKED], ids=["ar", "masked"]
)
def test_a_known_gap(objective):
    """Sure of token 3 with probability 0.6, while all tokens are 3, or a quarter of them."""
    logits_V = np.full(20, -np.inf, np.float32)
    logits_V[[3, 4]] = np.log([0.6, 0.4])
    always, limits = measured(objective, np.full((8, 16), 3), logits_V, windows=5)
    assert always["ece"][0] == pytest.approx(0.4, abs=1e-5)
    assert limits == [5]
    assert (always["accuracy"][0], always["confidence"][0]) == (
        1.0,
        pytest.approx(0.6, abs=1e-5),
    )
    assert always["ece"][1] < 1e-6
    quarter = np.where(np.arange(64 * 16).reshape(64, 16) % 4 == 0, 3, 5)
    seldom, _ = measured(objective, quarter, logits_V)
    assert seldom["accuracy"][0] == pytest.approx(
        0.25, abs=0 if objective.process is None else 0.06
    )
    assert seldom["ece"][0] == pytest.approx(0.6 - seldom["accuracy"][0], abs=1e-5)


def test_bins_tell_errors_apart_that_cancel():
    """One bin sees only the means, which are equal.

    Two bins see that low confidences are too low and high ones too high.
    """
    rows_NS3 = np.array([[[10, 5, 2.0], [10, 5, 8.0]]])

    assert calibration._calibration_error(rows_NS3) == pytest.approx(0.3)
    assert calibration._calibration_error(rows_NS3.sum(1, keepdims=True)) == 0
    with pytest.raises(ValueError, match="bins=0"):
        Calibration(bins=0)
