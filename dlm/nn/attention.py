"""Grouped-query attention with rotary positions: softmax(q·kᵀ/√K) v, scores and softmax in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.nn import cache as kv_cache
from dlm.nn import config, masks, norms, rope


class SelfAttention(nn.Module):
    config: config.Attention
    width: int
    layers: int  # of the whole network: scales the output projection's initial size

    @nn.compact
    def __call__(self, x_BLD, cos, sin, allowed, kv=None, length=None):
        """(x_BLD, new (k, v) or None). `allowed` is bool [B or 1, L, M], None or masks.Streams; `kv` the memory of this layer."""
        c, dtype = self.config, x_BLD.dtype
        D, H, J, K = self.width, c.heads, c.kv_heads, c.head_size
        inward, outward = nn.initializers.normal(D**-0.5), nn.initializers.normal((2 * self.layers * H * K) ** -0.5)
        q_DHK = self.param("q_DHK", inward, (D, H, K)).astype(dtype)
        k_DJK = self.param("k_DJK", inward, (D, J, K)).astype(dtype)
        v_DJK = self.param("v_DJK", inward, (D, J, K)).astype(dtype)
        o_HKD = self.param("o_HKD", outward, (H, K, D)).astype(dtype)
        q_BLHK = jnp.einsum("BLD,DHK->BLHK", x_BLD, q_DHK)
        k_BLJK = jnp.einsum("BLD,DJK->BLJK", x_BLD, k_DJK)
        v_BLJK = jnp.einsum("BLD,DJK->BLJK", x_BLD, v_DJK)
        if c.qk_norm == "rms":
            q_BLHK = norms.rms(q_BLHK, self.param("q_norm_K", nn.initializers.zeros, (K,)))
            k_BLJK = norms.rms(k_BLJK, self.param("k_norm_K", nn.initializers.zeros, (K,)))
        q_BLHK, k_BLJK = rope.rotate(q_BLHK, cos, sin), rope.rotate(k_BLJK, cos, sin)
        if kv is not None:
            k_BLJK, v_BLJK = kv = tuple(kv_cache.write(old, new, length) for old, new in zip(kv, (k_BLJK, v_BLJK), strict=True))
        listen = two_streams if isinstance(allowed, masks.Streams) else attend
        heard_BLHK = listen(q_BLHK, k_BLJK.astype(dtype), v_BLJK.astype(dtype), allowed)
        return jnp.einsum("BLHK,HKD->BLD", heard_BLHK, o_HKD), kv


def two_streams(q_BLHK, k_BLJK, v_BLJK, allowed: masks.Streams):
    """Attention of [z ; x]: z hears both streams, x hears x alone."""
    half = q_BLHK.shape[1] // 2
    noised_BLHK = attend(q_BLHK[:, :half], k_BLJK, v_BLJK, allowed.noised)
    clean_BLHK = attend(q_BLHK[:, half:], k_BLJK[:, half:], v_BLJK[:, half:], allowed.clean)
    return jnp.concatenate([noised_BLHK, clean_BLHK], 1)


def attend(q_BLHK, k_BMJK, v_BMJK, allowed):
    """The weighted mean of the values each query sees, [B, L, H, K]; the query heads of a kv head are adjacent."""
    B, L, H, K = q_BLHK.shape
    J = k_BMJK.shape[2]
    q_BLJRK = (q_BLHK * K**-0.5).reshape(B, L, J, H // J, K)
    scores = jnp.einsum("BLJRK,BMJK->BJRLM", q_BLJRK, k_BMJK, preferred_element_type=jnp.float32)
    if allowed is not None:
        scores = jnp.where(allowed[:, None, None], scores, -1e30)
    weights = jax.nn.softmax(scores, -1).astype(v_BMJK.dtype)
    return jnp.einsum("BJRLM,BMJK->BLJRK", weights, v_BMJK).reshape(B, L, H, K)
