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
    def __call__(self, x_BLD, cos, sin, allowed, kv=None, seat=None):
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
        half = x_BLD.shape[1] // 2 if isinstance(allowed, masks.Streams) else 0  # z, which is not remembered
        (noised_k, k_BMJK), (noised_v, v_BMJK) = (jnp.split(x, [half], 1) for x in (k_BLJK, v_BLJK))
        if kv is not None:
            k_BMJK, v_BMJK = kv = tuple(kv_cache.write(old, new, seat) for old, new in zip(kv, (k_BMJK, v_BMJK), strict=True))
            k_BMJK, v_BMJK = k_BMJK.astype(dtype), v_BMJK.astype(dtype)
        if half:
            both = jnp.concatenate([noised_k, k_BMJK], 1), jnp.concatenate([noised_v, v_BMJK], 1)
            noised_BLHK = attend(q_BLHK[:, :half], *both, allowed.noised)
            clean_BLHK = attend(q_BLHK[:, half:], k_BMJK, v_BMJK, allowed.clean)
            heard_BLHK = jnp.concatenate([noised_BLHK, clean_BLHK], 1)
        else:
            heard_BLHK = attend(q_BLHK, k_BMJK, v_BMJK, allowed)
        return jnp.einsum("BLHK,HKD->BLD", heard_BLHK, o_HKD), kv


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
