"""Multi-head latent attention: a token is cached as one short vector for all heads.

    c_Q = rms(W_DQ h)      q_i = [ W_UQ,i c_Q ; rope(W_QR,i c_Q) ]
    c = rms(W_DKV h)       k_i = [ W_UK,i c   ; r ],   v_i = W_UV,i c
    r = rope(W_KR h)       attended_i = softmax(q_i · k_i / √(nope + rope)) v_i

c [R] and r [K] are all that a cache keeps of a token, for any number of heads (DeepSeek-V2,
arXiv:2405.04434, section 2.1). The same sums in two orders: keys and values of all heads are
computed from the cache (`wide`), or, where few queries attend to a long cache, the queries are
mapped into the latent space and the result out of it, so that W_UK and W_UV are applied once for
each query instead of each key (`absorbed`):

    q_i · k_i = (W_UK,iᵀ q_i) · c + q_i · r        Σ_m w_m v_m = W_UV,i Σ_m w_m c_m
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.nn import attention, config, norms, rope
from dlm.nn.attend.base import Backend
from dlm.nn.attend.dense import Streams
from dlm.nn.inputs import LayerInputs


class LatentAttention(nn.Module):
    """The attention of one layer, as `attention.SelfAttention`."""

    config: config.Attention
    width: int
    layers: int  # of the whole network: scales the output projection's initial size
    epsilon: float = norms.EPSILON

    @nn.compact
    def __call__(self, x_BLD, kv, inputs: LayerInputs):
        """Returns (x_BLD, the layer's rotary keys and latents in the cache, or None)."""
        c, t, dtype = self.config, self.config.latent, x_BLD.dtype
        D, H, R = self.width, c.heads, t.kv_rank

        def weight(name, *shape):
            return self.param(name, nn.initializers.normal(shape[0] ** -0.5), shape).astype(dtype)

        def normed(name, x):
            if c.qk_norm != "rms":
                return x
            gain = self.param(name, nn.initializers.ones, x.shape[-1:])
            return norms.rms(x, gain, self.epsilon)

        # Queries, from a short vector of their own where q_rank says so.
        if t.q_rank:
            low_BLQ = jnp.einsum("BLD,DQ->BLQ", x_BLD, weight("q_down_DQ", D, t.q_rank))
            low_BLQ = normed("q_norm_Q", low_BLQ)
            up_QHK = weight("q_up_QHK", t.q_rank, H, t.nope + t.rope)
            q_BLHK = jnp.einsum("BLQ,QHK->BLHK", low_BLQ, up_QHK)
        else:
            q_BLHK = jnp.einsum("BLD,DHK->BLHK", x_BLD, weight("q_DHK", D, H, t.nope + t.rope))
        low_BLR = jnp.einsum("BLD,DR->BLR", x_BLD, weight("kv_down_DR", D, R))
        low_BLR = normed("kv_norm_R", low_BLR)
        r_BLK = jnp.einsum("BLD,DK->BLK", x_BLD, weight("k_rope_DK", D, t.rope))

        # Only a part of each query and the shared key turn with the position.
        turned_BLHK = rope.rotate(q_BLHK[..., t.nope :], inputs.cos, inputs.sin)
        q_BLHK = jnp.concatenate([q_BLHK[..., : t.nope], turned_BLHK], -1)
        turned_BL1K = rope.rotate(r_BLK[:, :, None], inputs.cos, inputs.sin)
        new_kv = turned_BL1K, low_BLR[:, :, None]

        up = Up(weight("k_up_RHK", R, H, t.nope), weight("v_up_RHK", R, H, t.value))
        outward = nn.initializers.normal((2 * self.layers * H * t.value) ** -0.5)
        o_HKD = self.param("o_HKD", outward, (H, t.value, D)).astype(dtype)

        (r_BM1K, low_BM1R), kv = attention.with_cache(new_kv, kv, inputs)
        if isinstance(inputs.prepared, Streams):
            # Each stream in the order that is cheaper for it.
            half = inputs.noised(q_BLHK.shape[1])
            noised, clean = inputs.prepared
            noised_BLHK = up.attend(inputs.backend, q_BLHK[:, :half], r_BM1K, low_BM1R, noised)
            r_BM1K, low_BM1R = r_BM1K[:, half:], low_BM1R[:, half:]
            clean_BLHK = up.attend(inputs.backend, q_BLHK[:, half:], r_BM1K, low_BM1R, clean)
            attended_BLHK = jnp.concatenate([noised_BLHK, clean_BLHK], 1)
        else:
            attended_BLHK = up.attend(inputs.backend, q_BLHK, r_BM1K, low_BM1R, inputs.prepared)
        return jnp.einsum("BLHK,HKD->BLD", attended_BLHK, o_HKD), kv


class Up(NamedTuple):
    """The matrices from a latent to the keys and values of all heads."""

    k_up_RHK: jax.Array
    v_up_RHK: jax.Array

    def attend(self, backend: Backend, q_BLHK, r_BM1K, low_BM1R, prepared) -> jax.Array:
        """Returns the result for each query, in the order that takes fewer multiplications.

        Args:
            backend: computes the attention.
            q_BLHK: queries, the part that turns with the position last.
            r_BM1K: rotary keys, shared by the heads.
            low_BM1R: latents.
            prepared: who attends to whom.
        """
        R, L, M = len(self.k_up_RHK), q_BLHK.shape[1], r_BM1K.shape[1]
        own = self.k_up_RHK.shape[-1] + self.v_up_RHK.shape[-1]
        cost_absorbed = L * R * own + L * M * 2 * R
        cost_wide = M * R * own + L * M * own
        order = self.absorbed if cost_absorbed < cost_wide else self.wide
        return order(backend, q_BLHK, r_BM1K, low_BM1R, prepared)

    def wide(self, backend: Backend, q_BLHK, r_BM1K, low_BM1R, prepared) -> jax.Array:
        """Computes the keys and values of all heads from the latents; arguments as `attend`."""
        low_BMR, H = low_BM1R[:, :, 0], self.k_up_RHK.shape[1]
        k_BMHK = jnp.einsum("BMR,RHK->BMHK", low_BMR, self.k_up_RHK)
        r_BMHK = jnp.broadcast_to(r_BM1K, (*r_BM1K.shape[:2], H, r_BM1K.shape[-1]))
        v_BMHK = jnp.einsum("BMR,RHK->BMHK", low_BMR, self.v_up_RHK)
        k_BMHK = jnp.concatenate([k_BMHK, r_BMHK], -1)
        return backend.attend(q_BLHK, k_BMHK, v_BMHK, prepared, q_BLHK.shape[-1] ** -0.5)

    def absorbed(self, backend: Backend, q_BLHK, r_BM1K, low_BM1R, prepared) -> jax.Array:
        """Maps the queries into the latent space; arguments as `attend`."""
        nope = self.k_up_RHK.shape[-1]
        latent_BLHR = jnp.einsum("BLHK,RHK->BLHR", q_BLHK[..., :nope], self.k_up_RHK)
        query_BLHK = jnp.concatenate([latent_BLHR, q_BLHK[..., nope:]], -1)
        key_BM1K = jnp.concatenate([low_BM1R, r_BM1K], -1)
        scale = q_BLHK.shape[-1] ** -0.5
        attended_BLHR = backend.attend(query_BLHK, key_BM1K, low_BM1R, prepared, scale)
        return jnp.einsum("BLHR,RHK->BLHK", attended_BLHR, self.v_up_RHK)
