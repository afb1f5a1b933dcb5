"""Grouped-query attention with rotary positions: softmax(q·kᵀ/√K) v."""

import flax.linen as nn
import jax.numpy as jnp

from dlm.nn import cache, config, norms, rope
from dlm.nn.inputs import LayerInputs


class SelfAttention(nn.Module):
    """The attention of one layer; scores and softmax are float32."""

    config: config.Attention
    width: int
    layers: int  # of the whole network: scales the output projection's initial size
    epsilon: float = norms.EPSILON

    @nn.compact
    def __call__(self, x_BLD, kv, inputs: LayerInputs):
        """Returns (x_BLD, the layer's keys and values in the cache, or None)."""
        c, dtype = self.config, x_BLD.dtype
        D, H, J, K = self.width, c.heads, c.kv_heads, c.head_size
        inward = nn.initializers.normal(D**-0.5)
        outward = nn.initializers.normal((2 * self.layers * H * K) ** -0.5)
        ones, zeros = nn.initializers.ones, nn.initializers.zeros
        q_DHK = self.param("q_DHK", inward, (D, H, K)).astype(dtype)
        k_DJK = self.param("k_DJK", inward, (D, J, K)).astype(dtype)
        v_DJK = self.param("v_DJK", inward, (D, J, K)).astype(dtype)
        o_HKD = self.param("o_HKD", outward, (H, K, D)).astype(dtype)

        q_BLHK = jnp.einsum("BLD,DHK->BLHK", x_BLD, q_DHK)
        k_BLJK = jnp.einsum("BLD,DJK->BLJK", x_BLD, k_DJK)
        v_BLJK = jnp.einsum("BLD,DJK->BLJK", x_BLD, v_DJK)
        if c.bias != "none":
            q_BLHK += self.param("q_bias_HK", zeros, (H, K)).astype(dtype)
            k_BLJK += self.param("k_bias_JK", zeros, (J, K)).astype(dtype)
            v_BLJK += self.param("v_bias_JK", zeros, (J, K)).astype(dtype)
        if c.qk_norm == "rms":
            q_BLHK = norms.rms(q_BLHK, self.param("q_norm_K", ones, (K,)), self.epsilon)
            k_BLJK = norms.rms(k_BLJK, self.param("k_norm_K", ones, (K,)), self.epsilon)
        q_BLHK = rope.rotate(q_BLHK, inputs.cos, inputs.sin)
        k_BLJK = rope.rotate(k_BLJK, inputs.cos, inputs.sin)

        # Queries attend to this pass and to the cache.
        (k_BMJK, v_BMJK), kv = with_cache((k_BLJK, v_BLJK), kv, inputs)
        attended_BLHK = inputs.backend.attend(q_BLHK, k_BMJK, v_BMJK, inputs.prepared, K**-0.5)
        attended_BLD = jnp.einsum("BLHK,HKD->BLD", attended_BLHK, o_HKD)
        if c.bias == "all":
            attended_BLD += self.param("o_bias_D", zeros, (D,)).astype(dtype)
        return attended_BLD, kv


def with_cache(new_kv, kv, inputs: LayerInputs):
    """Returns what a layer's queries attend to, and what the cache keeps of it.

    Args:
        new_kv: two arrays [B, L, J, K] of the positions that are computed.
        kv: those of the layer's cache, [B, M, J, K], or None.
        inputs: say where the new ones are written.

    Of two streams z comes first and is never cached.
    """
    if kv is None:
        return new_kv, None
    half = inputs.noised(new_kv[0].shape[1])
    dtype = new_kv[0].dtype
    attended, written = [], []
    for new_BLJK, old_BMJK in zip(new_kv, kv, strict=True):
        noised_BLJK, clean_BLJK = jnp.split(new_BLJK, [half], 1)
        written_BMJK = cache.write(old_BMJK, clean_BLJK, inputs.slots)
        written.append(written_BMJK)
        seen_BMJK = written_BMJK.astype(dtype)
        if half:
            seen_BMJK = jnp.concatenate([noised_BLJK, seen_BMJK], 1)
        attended.append(seen_BMJK)
    return tuple(attended), tuple(written)
