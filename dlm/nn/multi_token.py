"""Further layers behind the stack, each of which predicts from one token further back.

    h'_i = M [rms h_{i−1} ; rms embed x_{i−1}],   then a layer like the last one
                                                  (DeepSeek-V3, arXiv:2412.19437, eq. 21 to 23)

h_{i−1} has seen x_{<i−1}, because it predicts x_{i−1}: so it learns to know two tokens. Where a
segment begins h is 0.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.nn import config, norms
from dlm.nn.inputs import LayerInputs
from dlm.nn.layer import Block


class MultiTokenLayer(nn.Module):
    """Predicts token i from what the layers before knew one position earlier, and token i − 1."""

    config: config.ModelConfig
    mesh: Any = None

    @nn.compact
    def __call__(self, h_BLD, embedded_BLD, first_BL, inputs: LayerInputs):
        """Returns the new h_BLD, and (the same, the layer's routing sums)."""
        c = self.config
        dtype = h_BLD.dtype
        earlier_BLD = jnp.roll(h_BLD, 1, 1)
        before_BLD = jnp.where(first_BL[..., None], 0, earlier_BLD)
        before_BLD = self._normed("before_norm_D", before_BLD)
        embedded_BLD = self._normed("read_norm_D", embedded_BLD)

        # M, as a matrix for each of the two vectors.
        h_BLD = before_BLD @ self._matrix("before_DD", dtype)
        h_BLD += embedded_BLD @ self._matrix("read_DD", dtype)
        sparse = c.stacks[-1].kinds[-1]
        block = Block(c, sparse, self.mesh, name="block")
        h_BLD, (_, routing) = block(h_BLD, None, inputs)
        return h_BLD, (h_BLD, routing)

    def _normed(self, name: str, x_BLD: jax.Array) -> jax.Array:
        c = self.config
        gain_D = self.param(name, nn.initializers.ones, (c.width,))
        return norms.rms(x_BLD, gain_D, c.norm.epsilon)

    def _matrix(self, name: str, dtype: jnp.dtype) -> jax.Array:
        D = self.config.width
        # Two vectors are added, so both matrices start as one of twice the rows.
        size = 2 * D
        inward = nn.initializers.normal(size**-0.5)
        return self.param(name, inward, (D, D)).astype(dtype)
