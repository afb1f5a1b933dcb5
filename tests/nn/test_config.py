"""Impossible networks are named when the config is read."""

import pytest

from dlm.nn.config import FFN, Attention, Compute, ModelConfig


@pytest.mark.parametrize(
    "make, said",
    [
        (
            lambda: Attention(heads=6, kv_heads=4),
            "heads=6 must be a multiple of kv_heads=4",
        ),
        (lambda: Attention(head_size=7), "head_size=7 must be even"),
        (lambda: FFN(width=0), "width=0"),
        (lambda: Compute(unroll=0), "unroll=0"),
        (lambda: ModelConfig(layers=0), "layers=0"),
    ],
)
def test_mistakes(make, said):
    with pytest.raises(ValueError, match=said):
        make()
