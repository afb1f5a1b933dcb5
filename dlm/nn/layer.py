"""One layer of the backbone: attention, then a feed-forward layer or experts, each added to h.

    h ← h + attention(rms h),   h ← h + ffn(rms h)

With time conditioning each sub-layer's input and output are scaled by 1 + a learned function of
the position's time, 1 at the start (adaLN, arXiv:2212.09748, without shifts). Sandwich norms put
another norm behind each sub-layer, whose gain starts at c N^(−½), so that the sum of N layers
starts as large as that of one (depth-scaled sandwich norm: Pangu Ultra, arXiv:2504.07866,
section 2).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.core.contracts import Routing
from dlm.nn import attention, config, experts, ffn, latent_attention, norms
from dlm.nn.attention import KV
from dlm.nn.inputs import LayerInputs

_OUTER = dict(attend=0.283, ffn=0.432)  # c of the outer norm of a sandwich

Results = tuple[KV | None, Routing | None]


class Block(nn.Module):
    """One layer; `sparse` has experts instead of a dense feed-forward layer."""

    config: config.ModelConfig
    sparse: bool = False
    mesh: Any = None

    @nn.compact
    def __call__(
        self,
        h_BLD: jax.Array,
        kv: KV | None,
        inputs: LayerInputs,
    ) -> tuple[jax.Array, Results]:
        """Returns the new h_BLD, and (the layer's keys and values, its routing sums)."""
        x_BLD = self._normed("attend", h_BLD, inputs)
        attend = self._attention()
        x_BLD, kv = attend(x_BLD, kv, inputs)
        h_BLD = h_BLD + self._residual("attend", x_BLD, inputs)
        x_BLD, routing = self._ffn(h_BLD, inputs)
        h_BLD = h_BLD + self._residual("ffn", x_BLD, inputs)
        return h_BLD, (kv, routing)

    def _attention(self) -> nn.Module:
        c = self.config
        settings = c.attention, c.width, c.layers, c.norm.epsilon
        # With a latent, one short vector is cached for all heads.
        if c.attention.latent.kv_rank:
            return latent_attention.LatentAttention(*settings, name="attention")
        return attention.SelfAttention(*settings, name="attention")

    def _ffn(
        self,
        h_BLD: jax.Array,
        inputs: LayerInputs,
    ) -> tuple[jax.Array, Routing | None]:
        """Returns the output of the feed-forward layer or the experts, and routing sums."""
        c = self.config
        if not self.sparse:
            dense = ffn.FeedForward(c.ffn, c.width, c.layers, name="ffn")
            x_BLD = self._normed("ffn", h_BLD, inputs)
            return dense(x_BLD), None
        settings = c.experts, c.ffn.kind, c.width, c.layers, self.mesh
        sparse = experts.Experts(*settings, name="experts")
        x_BLD = self._normed("ffn", h_BLD, inputs)
        # The router's losses count once for each position, whatever the streams.
        share = 1 / inputs.streams
        return sparse(x_BLD, inputs.valid_BL, inputs.mask_ratio_B, share)

    def _normed(
        self,
        name: str,
        h_BLD: jax.Array,
        inputs: LayerInputs,
    ) -> jax.Array:
        """Returns a sub-layer's input."""
        c = self.config
        ones = nn.initializers.ones
        gain_D = self.param(f"{name}_norm_D", ones, (c.width,))
        x_BLD = norms.rms(h_BLD, gain_D, c.norm.epsilon)
        return self._scaled(f"{name}_scale_WD", x_BLD, inputs.time_BLW)

    def _residual(
        self,
        name: str,
        x_BLD: jax.Array,
        inputs: LayerInputs,
    ) -> jax.Array:
        """Returns what a sub-layer adds to h."""
        c = self.config
        if c.norm.kind == "sandwich":
            start = _OUTER[name] * c.layers**-0.5
            initial = nn.initializers.constant(start)
            gain_D = self.param(f"{name}_out_norm_D", initial, (c.width,))
            x_BLD = norms.rms(x_BLD, gain_D, c.norm.epsilon)
        return self._scaled(f"{name}_gate_WD", x_BLD, inputs.time_BLW)

    def _scaled(self, name: str, x_BLD, time_BLW):
        """Returns x, scaled by 1 + a linear function of the time's features."""
        if time_BLW is None:
            return x_BLD
        # Zeros: without training the time changes nothing.
        shape = time_BLW.shape[-1], self.config.width
        zeros = nn.initializers.zeros
        weight_WD = self.param(name, zeros, shape)
        weight_WD = weight_WD.astype(time_BLW.dtype)
        scale_BLD = jnp.einsum("BLW,WD->BLD", time_BLW, weight_WD)
        return x_BLD * (1 + scale_BLD)


class Group(nn.Module):
    """Layers of different kinds, one after the other, as one step of a scan."""

    config: config.ModelConfig
    kinds: tuple[bool, ...]
    mesh: Any = None

    @nn.compact
    def __call__(self, h_BLD, kv, inputs: LayerInputs):
        """As `Block`, with keys and values stacked along the layers of the group, S."""
        new_kvs, routing = [], None
        for i, sparse in enumerate(self.kinds):
            layer_kv = None
            if kv is not None:
                layer_kv = tuple(x_SBMJK[i] for x_SBMJK in kv)
            layer = Block(self.config, sparse, self.mesh, name=f"layer{i}")
            h_BLD, (new_kv, sums) = layer(h_BLD, layer_kv, inputs)
            new_kvs.append(new_kv)
            # A group has one layer with experts, the last.
            if sparse:
                routing = sums
        if kv is not None:
            kv = jax.tree.map(_stack, *new_kvs)
        return h_BLD, (kv, routing)


def _stack(*arrays):
    return jnp.stack(arrays)
