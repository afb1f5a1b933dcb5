"""Grouped-query attention with rotary positions: softmax(q·kᵀ/√K) v, scores and softmax in float32."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.nn import cache, config, masks, norms, rope


class SelfAttention(nn.Module):
    config: config.Attention
    width: int
    layers: int  # of the whole network: scales the output projection's initial size
    epsilon: float = norms.EPSILON

    @nn.compact
    def __call__(self, x_BLD, cos, sin, allowed, kv=None, slots=None):
        """(x_BLD, new (k, v) or None). `allowed` is bool [B or 1, L, M], None or masks.Streams; `kv` the memory of this layer."""
        c, dtype = self.config, x_BLD.dtype
        D, H, J, K = self.width, c.heads, c.kv_heads, c.head_size
        inward, outward = (
            nn.initializers.normal(D**-0.5),
            nn.initializers.normal((2 * self.layers * H * K) ** -0.5),
        )
        q_DHK = self.param("q_DHK", inward, (D, H, K)).astype(dtype)
        k_DJK = self.param("k_DJK", inward, (D, J, K)).astype(dtype)
        v_DJK = self.param("v_DJK", inward, (D, J, K)).astype(dtype)
        o_HKD = self.param("o_HKD", outward, (H, K, D)).astype(dtype)
        q_BLHK = jnp.einsum("BLD,DHK->BLHK", x_BLD, q_DHK)
        k_BLJK = jnp.einsum("BLD,DJK->BLJK", x_BLD, k_DJK)
        v_BLJK = jnp.einsum("BLD,DJK->BLJK", x_BLD, v_DJK)
        if c.bias != "none":
            q_BLHK += self.param("q_bias_HK", nn.initializers.zeros, (H, K)).astype(dtype)
            k_BLJK += self.param("k_bias_JK", nn.initializers.zeros, (J, K)).astype(dtype)
            v_BLJK += self.param("v_bias_JK", nn.initializers.zeros, (J, K)).astype(dtype)
        if c.qk_norm == "rms":
            q_BLHK = norms.rms(
                q_BLHK, self.param("q_norm_K", nn.initializers.ones, (K,)), self.epsilon
            )
            k_BLJK = norms.rms(
                k_BLJK, self.param("k_norm_K", nn.initializers.ones, (K,)), self.epsilon
            )
        q_BLHK, k_BLJK = rope.rotate(q_BLHK, cos, sin), rope.rotate(k_BLJK, cos, sin)
        attended_BLHK, kv = attend_with_cache(q_BLHK, (k_BLJK, v_BLJK), allowed, kv, slots)
        attended_BLD = jnp.einsum("BLHK,HKD->BLD", attended_BLHK, o_HKD)
        if c.bias == "all":
            attended_BLD += self.param("o_bias_D", nn.initializers.zeros, (D,)).astype(dtype)
        return attended_BLD, kv


def attend(q_BLHK, k_BMJK, v_BMJK, allowed, size: int = 0):
    """The weighted mean of the values each query sees, [B, L, H, K]; the query heads of a kv head are adjacent. Scores are divided by
    the root of `size`, 0: that of a query."""
    B, L, H, K = q_BLHK.shape
    J = k_BMJK.shape[2]
    q_BLJRK = (q_BLHK * (size or K) ** -0.5).reshape(B, L, J, H // J, K)
    scores = jnp.einsum("BLJRK,BMJK->BJRLM", q_BLJRK, k_BMJK, preferred_element_type=jnp.float32)
    if allowed is not None:
        scores = jnp.where(allowed[:, None, None], scores, -1e30)
    weights = jax.nn.softmax(scores, -1).astype(v_BMJK.dtype)
    return jnp.einsum("BJRLM,BMJK->BLJRK", weights, v_BMJK).reshape(B, L, H, -1)


def attend_with_cache(q_BLHK, new_kv, allowed, kv, slots, attend=attend):
    """(what each query hears, the new memory or None). `told` is what a memory keeps of these positions, two arrays [B, L, J, K], and
    `attend(q, *memory, allowed)` how it is heard. Of two streams z comes first and is not remembered."""
    half = q_BLHK.shape[1] // 2 if isinstance(allowed, masks.Streams) else 0
    noised, context = zip(*(jnp.split(x, [half], 1) for x in new_kv), strict=True)
    if kv is not None:
        kv = tuple(cache.write(old, new, slots) for old, new in zip(kv, context, strict=True))
        context = tuple(x.astype(q_BLHK.dtype) for x in kv)
    if not half:
        return attend(q_BLHK, *context, allowed), kv
    both = (jnp.concatenate(x, 1) for x in zip(noised, context, strict=True))
    parts = (
        attend(q_BLHK[:, :half], *both, allowed.noised),
        attend(q_BLHK[:, half:], *context, allowed.clean),
    )
    return jnp.concatenate(parts, 1), kv
