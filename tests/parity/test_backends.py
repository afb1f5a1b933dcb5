"""Kernels that others wrote, against the plain loop over experts."""

import jax.numpy as jnp
import pytest

from tests.nn import test_experts


@pytest.mark.parametrize("kind", ["swiglu", "gelu"])
def test_tokamax_is_the_loop_over_experts(kind):
    test_experts.is_the_loop(kind, "tokamax", 0, jnp.float32, 1e-6)
