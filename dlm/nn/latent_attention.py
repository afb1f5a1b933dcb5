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

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from dlm.nn import attention, config, norms, rope
from dlm.nn.attend.base import Backend
from dlm.nn.attend.dense import Streams
from dlm.nn.attention import KV
from dlm.nn.inputs import LayerInputs


class LatentAttention(nn.Module):
    """The attention of one layer, as `attention.SelfAttention`."""

    config: config.Attention
    width: int
    layers: int  # of the whole network: scales the output projection's initial size
    epsilon: float = norms.EPSILON

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        kv: KV | None,
        inputs: LayerInputs,
    ) -> tuple[jax.Array, KV | None]:
        """Returns (x_BLD, the layer's rotary keys and latents in the cache, or None)."""
        t, dtype = self.config.latent, x_BLD.dtype
        D, H = self.width, self.config.heads
        R = t.kv_rank

        # The order in which parameters are created seeds them.
        q_BLHK = self._queries(x_BLD)
        down_DR = self._weight("kv_down_DR", dtype, D, R)
        low_BLR = jnp.einsum("BLD,DR->BLR", x_BLD, down_DR)
        low_BLR = self._normed("kv_norm_R", low_BLR)
        rope_DK = self._weight("k_rope_DK", dtype, D, t.rope)
        r_BLK = jnp.einsum("BLD,DK->BLK", x_BLD, rope_DK)

        # Only a part of each query and the shared key turn with the position.
        plain_BLHK = q_BLHK[..., : t.nope]
        turned_BLHK = q_BLHK[..., t.nope :]
        turned_BLHK = rope.rotate(turned_BLHK, inputs.cos, inputs.sin)
        q_BLHK = jnp.concatenate([plain_BLHK, turned_BLHK], -1)
        r_BL1K = r_BLK[:, :, None]
        r_BL1K = rope.rotate(r_BL1K, inputs.cos, inputs.sin)
        low_BL1R = low_BLR[:, :, None]

        k_up_RHK = self._weight("k_up_RHK", dtype, R, H, t.nope)
        v_up_RHK = self._weight("v_up_RHK", dtype, R, H, t.value)
        size = 2 * self.layers * H * t.value
        outward = nn.initializers.normal(size**-0.5)
        o_HKD = self.param("o_HKD", outward, (H, t.value, D))
        o_HKD = o_HKD.astype(dtype)

        # Queries attend to this pass and to the cache.
        new_kv = r_BL1K, low_BL1R
        seen, kv = attention.with_cache(new_kv, kv, inputs)
        r_BM1K, low_BM1R = seen
        up = Up(k_up_RHK, v_up_RHK)
        attended_BLHK = up.attend_streams(q_BLHK, r_BM1K, low_BM1R, inputs)
        return jnp.einsum("BLHK,HKD->BLD", attended_BLHK, o_HKD), kv

    def _queries(self, x_BLD: jax.Array) -> jax.Array:
        """Returns the queries, from a short vector of their own if q_rank is set."""
        t, dtype = self.config.latent, x_BLD.dtype
        D, H = self.width, self.config.heads
        K = t.nope + t.rope
        if not t.q_rank:
            q_DHK = self._weight("q_DHK", dtype, D, H, K)
            return jnp.einsum("BLD,DHK->BLHK", x_BLD, q_DHK)
        down_DQ = self._weight("q_down_DQ", dtype, D, t.q_rank)
        low_BLQ = jnp.einsum("BLD,DQ->BLQ", x_BLD, down_DQ)
        low_BLQ = self._normed("q_norm_Q", low_BLQ)
        up_QHK = self._weight("q_up_QHK", dtype, t.q_rank, H, K)
        return jnp.einsum("BLQ,QHK->BLHK", low_BLQ, up_QHK)

    def _weight(self, name: str, dtype: jnp.dtype, *shape: int):
        size = shape[0]
        normal = nn.initializers.normal(size**-0.5)
        weight = self.param(name, normal, shape)
        return weight.astype(dtype)

    def _normed(self, name: str, x: jax.Array) -> jax.Array:
        if self.config.qk_norm != "rms":
            return x
        size = x.shape[-1]
        ones = nn.initializers.ones
        gain = self.param(name, ones, (size,))
        return norms.rms(x, gain, self.epsilon)


class Up(NamedTuple):
    """The matrices from a latent to the keys and values of all heads."""

    k_up_RHK: jax.Array
    v_up_RHK: jax.Array

    def attend_streams(
        self,
        q_BLHK: jax.Array,
        r_BM1K: jax.Array,
        low_BM1R: jax.Array,
        inputs: LayerInputs,
    ) -> jax.Array:
        """Returns the result for each query, of two streams each in the order cheaper for it."""
        backend, prepared = inputs.backend, inputs.prepared
        if not isinstance(prepared, Streams):
            return self.attend(backend, q_BLHK, r_BM1K, low_BM1R, prepared)
        half = inputs.noised(q_BLHK.shape[1])
        noised_BLHK = q_BLHK[:, :half]
        clean_BLHK = q_BLHK[:, half:]
        noised_BLHK = self.attend(
            backend, noised_BLHK, r_BM1K, low_BM1R, prepared.noised
        )
        # Clean tokens attend to clean tokens alone.
        r_BM1K = r_BM1K[:, half:]
        low_BM1R = low_BM1R[:, half:]
        clean_BLHK = self.attend(backend, clean_BLHK, r_BM1K, low_BM1R, prepared.clean)
        return jnp.concatenate([noised_BLHK, clean_BLHK], 1)

    def attend(
        self,
        backend: Backend,
        q_BLHK: jax.Array,
        r_BM1K: jax.Array,
        low_BM1R: jax.Array,
        prepared: Any,
    ) -> jax.Array:
        """Returns the result for each query, in the order that takes fewer multiplications.

        Args:
            backend: computes the attention.
            q_BLHK: queries, the part that turns with the position last.
            r_BM1K: rotary keys, shared by the heads.
            low_BM1R: latents.
            prepared: who attends to whom, in the form of the backend.
        """
        R = len(self.k_up_RHK)
        L = q_BLHK.shape[1]
        M = r_BM1K.shape[1]
        nope = self.k_up_RHK.shape[-1]
        value = self.v_up_RHK.shape[-1]
        own = nope + value
        cost_absorbed = L * R * own + L * M * 2 * R
        cost_wide = M * R * own + L * M * own
        order = self.absorbed if cost_absorbed < cost_wide else self.wide
        return order(backend, q_BLHK, r_BM1K, low_BM1R, prepared)

    def wide(
        self,
        backend: Backend,
        q_BLHK: jax.Array,
        r_BM1K: jax.Array,
        low_BM1R: jax.Array,
        prepared: Any,
    ) -> jax.Array:
        """Computes the keys and values of all heads from the latents.

        Args: as `attend`.
        """
        low_BMR = low_BM1R[:, :, 0]
        k_BMHK = jnp.einsum("BMR,RHK->BMHK", low_BMR, self.k_up_RHK)
        # Every head has its own copy of the rotary key.
        shape = *k_BMHK.shape[:3], r_BM1K.shape[-1]
        r_BMHK = jnp.broadcast_to(r_BM1K, shape)
        v_BMHK = jnp.einsum("BMR,RHK->BMHK", low_BMR, self.v_up_RHK)
        k_BMHK = jnp.concatenate([k_BMHK, r_BMHK], -1)
        scale = q_BLHK.shape[-1] ** -0.5
        return backend.attend(q_BLHK, k_BMHK, v_BMHK, prepared, scale)

    def absorbed(
        self,
        backend: Backend,
        q_BLHK: jax.Array,
        r_BM1K: jax.Array,
        low_BM1R: jax.Array,
        prepared: Any,
    ) -> jax.Array:
        """Maps the queries into the latent space.

        Args: as `attend`.
        """
        nope = self.k_up_RHK.shape[-1]
        plain_BLHK = q_BLHK[..., :nope]
        turned_BLHK = q_BLHK[..., nope:]
        latent_BLHR = jnp.einsum("BLHK,RHK->BLHR", plain_BLHK, self.k_up_RHK)
        query_BLHK = jnp.concatenate([latent_BLHR, turned_BLHK], -1)
        key_BM1K = jnp.concatenate([low_BM1R, r_BM1K], -1)
        # The scale is that of the head's own size, in both orders.
        scale = q_BLHK.shape[-1] ** -0.5
        attend = backend.attend
        attended_BLHR = attend(query_BLHK, key_BM1K, low_BM1R, prepared, scale)
        return jnp.einsum("BLHR,RHK->BLHK", attended_BLHR, self.v_up_RHK)
