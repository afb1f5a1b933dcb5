"""Further layers behind the stack, each of which predicts from one token further back.

    h'_i = M [rms h_{i−1} ; rms embed x_{i−1}],   then a layer like the last one
                                                  (DeepSeek-V3, arXiv:2412.19437, eq. 21 to 23)

h_{i−1} has seen x_{<i−1}, because it predicts x_{i−1}: so it learns to know two tokens. Where a
segment begins h is 0.
"""

from typing import Any

import flax.linen as nn
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
        c, D = self.config, self.config.width
        ones, inward = nn.initializers.ones, nn.initializers.normal((2 * D) ** -0.5)
        before_BLD = jnp.where(first_BL[..., None], 0, jnp.roll(h_BLD, 1, 1))
        before_BLD = norms.rms(before_BLD, self.param("before_norm_D", ones, (D,)), c.norm.epsilon)
        gain_D = self.param("read_norm_D", ones, (D,))
        embedded_BLD = norms.rms(embedded_BLD, gain_D, c.norm.epsilon)
        before_DD = self.param("before_DD", inward, (D, D)).astype(h_BLD.dtype)
        h_BLD = before_BLD @ before_DD
        read_DD = self.param("read_DD", inward, (D, D)).astype(h_BLD.dtype)
        h_BLD += embedded_BLD @ read_DD
        sparse = c.stacks[-1].kinds[-1]
        h_BLD, (_, routing) = Block(c, sparse, self.mesh, name="block")(h_BLD, None, inputs)
        return h_BLD, (h_BLD, routing)
