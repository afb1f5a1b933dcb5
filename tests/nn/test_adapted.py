"""A network that sees the whole row and predicts token i from the position of token i − 1.

Also: how far it looks ahead while it learns to.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlm.core.config import build_member
from dlm.core.errors import UserError
from dlm.nn.visibility.full import Full
from dlm.objectives.adapted import Adapted
from dlm.samplers import plan
from dlm.samplers.plan import Cache, Sampler
from tests import tiny

CONFIG = tiny.model_config()
X_BL = tiny.tokens(2, 8)


def logits(mask, **fields):
    return np.asarray(
        tiny.net(CONFIG)(
            tiny.under(tiny.canvas(X_BL, **fields), mask)
        ).prediction.logits_BLV
    )


def test_a_prediction_is_what_the_network_says_one_position_before():
    plain_BLV, shifted_BLV = logits(Full()), logits(Full("output"))
    np.testing.assert_array_equal(shifted_BLV[:, 1:], plain_BLV[:, :-1])
    np.testing.assert_array_equal(shifted_BLV[:, 0], plain_BLV[:, 0])
    segments_BL, positions_BL = [[1] * 5 + [2] * 3] * 2, [[*range(5), *range(3)]] * 2
    packed = dict(segments_BL=segments_BL, positions_BL=positions_BL)
    plain_BLV, shifted_BLV = logits(Full(), **packed), logits(Full("output"), **packed)
    np.testing.assert_array_equal(
        shifted_BLV[:, [0, 1, 5, 6]], plain_BLV[:, [0, 0, 5, 5]]
    )


def test_reach_opens_the_attention_from_causal_to_full():
    """How far ahead a change is noticed, seen from every position, in a network of one layer."""
    config = dataclasses.replace(CONFIG, layers=1)
    changed_BL = np.asarray(X_BL).copy()
    changed_BL[:, 5] = (changed_BL[:, 5] + 1) % 9

    def noticed(reach):
        says = (
            tiny.net(config)(
                tiny.canvas(z, visibility=Full(reach_B1=jnp.full((2, 1), reach)))
            ).prediction.logits_BLV
            for z in (X_BL, changed_BL)
        )
        a, b = (np.where(np.isfinite(x), x, 0) for x in says)
        return sorted(set(np.nonzero(a != b)[1].tolist()))

    assert [noticed(reach) for reach in (0, 2, 8)] == [
        [5, 6, 7],
        [3, 4, 5, 6, 7],
        list(range(8)),
    ]


@pytest.mark.parametrize(
    ("anneal", "progress", "want"),
    [(0.5, 0.0, 0), (0.5, 0.2, 3), (0.5, 0.5, 8), (0.5, 1.0, 16), (0.0, 0.0, None)],
)
def test_the_reach_grows_with_the_updates(anneal, progress, want):
    batch = tiny.batch(X_BL)
    over, now = tiny.models(CONFIG), tiny.models(CONFIG, progress=jnp.float32(progress))
    objective = Adapted(
        reach_warmup=anneal,
        vocab=tiny.VOCAB,
        process=build_member("mask", "noise", tiny.VOCAB),
    )
    reach_B1 = objective._visibility_at(now, batch).reach_B1
    assert (reach_B1 is None) if want is None else (reach_B1 == want).all()
    unlimited = objective._visibility_at(over, batch).reach_B1
    assert unlimited is None, "after the warm-up everything is visible"
    key = jax.random.key(0)
    losses = [
        float(objective.loss(models, batch, key).nats_sum) for models in (over, now)
    ]
    assert (losses[0] == losses[1]) == (want is None or want >= 8)
    bounds = [
        objective.bound(models, batch, key, 2).nats_BL.sum() for models in (over, now)
    ]
    assert float(bounds[0]) == float(bounds[1])


def test_what_reads_a_part_of_the_canvas_is_refused():
    process = build_member("mask", "noise", tiny.VOCAB)
    with pytest.raises(UserError, match="from the one before it"):
        plan.resolve(
            Sampler(
                build_member("ancestral", "samplers.rules"),
                block=4,
                cache=Cache("dual"),
            ),
            process,
            Full("output"),
        )
