"""The evaluator of bits per byte: its arithmetic, over every window, padding left out."""

import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from dlm.evals.bound import HeldOut
from dlm.run.contracts import Bound
from tests import tiny


def test_bits_per_byte_and_its_error():
    rows_BL = np.array([[1, 2, 3], [4, 5, tiny.VOCAB.pad]])
    batches = [tiny.batch(rows_BL, segments_BL=rows_BL < 16), tiny.batch(rows_BL[:1])]
    asked = []

    def bound(samples):
        asked.append(samples)
        return lambda params, batch, key: Bound(batch.weights_BL * 2.0, jnp.full(len(batch.tokens_BL), 0.25))

    subject = types.SimpleNamespace(
        experiment=types.SimpleNamespace(bound=bound),
        tokenizer=types.SimpleNamespace(bytes_V=np.arange(20)),
        held_out=lambda limit: asked.append(limit) or iter(batches),
        params=None,
        key=None,
    )
    (name, bits, se), (token_name, nats, token_se) = HeldOut(samples=6).run(subject, 0)
    size, tokens = 1 + 2 + 3 + 4 + 5 + 1 + 2 + 3, 8
    assert (name, token_name, asked) == ("bits_per_byte", "nats_per_token", [6, None])
    assert bits == pytest.approx(16 / math.log(2) / size) and se == pytest.approx(0.75**0.5 / math.log(2) / size)
    assert nats == pytest.approx(16 / tokens) and token_se == pytest.approx(0.75**0.5 / tokens)
    list(HeldOut(windows=3).run(subject, 0))
    assert asked[-1] == 3


def test_mistakes():
    for wrong in (dict(samples=3), dict(samples=0), dict(windows=-1)):
        with pytest.raises(ValueError, match="must be even"):
            HeldOut(**wrong)
