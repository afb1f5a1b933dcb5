"""The position-wise layer: two matrices around a cheap nonlinearity, or three with a gate (arXiv:2002.05202; relu²: 2109.08668)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.nn import config


class FeedForward(nn.Module):
    config: config.FFN
    width: int
    layers: int  # of the whole network: scales the output projection's initial size

    @nn.compact
    def __call__(self, x_BLD):
        D, F, dtype = self.width, self.config.width, x_BLD.dtype
        inward, outward = (
            nn.initializers.normal(D**-0.5),
            nn.initializers.normal((2 * self.layers * F) ** -0.5),
        )
        names = ("up_DF", "gate_DF") if self.config.kind == "swiglu" else ("up_DF",)
        h = (
            jnp.einsum("BLD,DF->BLF", x_BLD, self.param(name, inward, (D, F)).astype(dtype))
            for name in names
        )
        return jnp.einsum(
            "BLF,FD->BLD",
            act(self.config.kind, *h),
            self.param("down_FD", outward, (F, D)).astype(dtype),
        )


def act(kind: str, up, gate=None):
    """The nonlinearity between the matrices; `gate` where the kind has one."""
    if kind == "swiglu":
        return up * jax.nn.silu(gate)
    return jax.nn.gelu(up) if kind == "gelu" else jnp.square(jax.nn.relu(up))
