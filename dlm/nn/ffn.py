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
        inward, outward = nn.initializers.normal(D**-0.5), nn.initializers.normal((2 * self.layers * F) ** -0.5)
        h_BLF = jnp.einsum("BLD,DF->BLF", x_BLD, self.param("up_DF", inward, (D, F)).astype(dtype))
        if self.config.kind == "swiglu":
            h_BLF *= jax.nn.silu(jnp.einsum("BLD,DF->BLF", x_BLD, self.param("gate_DF", inward, (D, F)).astype(dtype)))
        elif self.config.kind == "gelu":
            h_BLF = jax.nn.gelu(h_BLF)
        else:
            h_BLF = jnp.square(jax.nn.relu(h_BLF))
        return jnp.einsum("BLF,FD->BLD", h_BLF, self.param("down_FD", outward, (F, D)).astype(dtype))
