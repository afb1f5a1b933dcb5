"""The position-wise layer: two matrices around a cheap nonlinearity, or three with a gate.

Sources: arXiv:2002.05202; relu² 2109.08668.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.nn import config


class FeedForward(nn.Module):
    """The feed-forward part of one layer."""

    config: config.FFN
    width: int
    layers: int  # of the whole network: scales the output projection's initial size

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """Returns x_BLD of the same shape."""
        D, F = self.width, self.config.width
        names = ["up_DF"]
        if self.config.kind == "swiglu":
            names.append("gate_DF")

        # The output starts smaller in a deeper network.
        size = 2 * self.layers * F
        inward = nn.initializers.normal(D**-0.5)
        outward = nn.initializers.normal(size**-0.5)
        dtype = x_BLD.dtype
        inner = []
        for name in names:
            weight_DF = self._weight(name, inward, dtype, D, F)
            inner.append(jnp.einsum("BLD,DF->BLF", x_BLD, weight_DF))
        h_BLF = act(self.config.kind, *inner)
        down_FD = self._weight("down_FD", outward, dtype, F, D)
        return jnp.einsum("BLF,FD->BLD", h_BLF, down_FD)

    def _weight(self, name: str, initial, dtype, *shape: int):
        return self.param(name, initial, shape).astype(dtype)


def act(
    kind: str,
    up: jax.Array,
    gate: jax.Array | None = None,
) -> jax.Array:
    """Returns the nonlinearity between the matrices; `gate` where the kind has one."""
    if kind == "swiglu":
        assert gate is not None, "swiglu has a gate"
        return up * jax.nn.silu(gate)
    if kind == "gelu":
        return jax.nn.gelu(up)
    return jnp.square(jax.nn.relu(up))
