"""Kernels that others wrote, against the plain loop over experts."""

import pytest

from tests.nn import test_experts


@pytest.mark.parametrize("kind", ["swiglu", "gelu"])
def test_tokamax_is_the_loop_over_experts(kind):
    test_experts.test_every_back_end_is_the_loop_over_experts(kind, "tokamax", 0)
