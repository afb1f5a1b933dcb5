"""Grouped-query attention with rotary positions: softmax(q·kᵀ/√K) v."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.nn.initializers import Initializer

from dlm.nn import cache, config, norms, rope
from dlm.nn.inputs import LayerInputs

KV = tuple[jax.Array, jax.Array]  # keys and values of one layer, [B, M, J, K]


class SelfAttention(nn.Module):
    """The attention of one layer; scores and softmax are float32."""

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
        """Returns (x_BLD, the layer's keys and values in the cache, or None)."""
        c, dtype = self.config, x_BLD.dtype
        D, K = self.width, c.head_size
        H, J = c.heads, c.kv_heads
        size = 2 * self.layers * H * K

        # The order in which parameters are created seeds them.
        inward = nn.initializers.normal(D**-0.5)
        outward = nn.initializers.normal(size**-0.5)
        q_DHK = self._weight("q_DHK", inward, (D, H, K), dtype)
        k_DJK = self._weight("k_DJK", inward, (D, J, K), dtype)
        v_DJK = self._weight("v_DJK", inward, (D, J, K), dtype)
        o_HKD = self._weight("o_HKD", outward, (H, K, D), dtype)

        q_BLHK = jnp.einsum("BLD,DHK->BLHK", x_BLD, q_DHK)
        k_BLJK = jnp.einsum("BLD,DJK->BLJK", x_BLD, k_DJK)
        v_BLJK = jnp.einsum("BLD,DJK->BLJK", x_BLD, v_DJK)
        if c.bias != "none":
            q_BLHK += self._bias("q_bias_HK", (H, K), dtype)
            k_BLJK += self._bias("k_bias_JK", (J, K), dtype)
            v_BLJK += self._bias("v_bias_JK", (J, K), dtype)
        if c.qk_norm == "rms":
            q_BLHK = self._normed("q_norm_K", q_BLHK)
            k_BLJK = self._normed("k_norm_K", k_BLJK)
        q_BLHK = rope.rotate(q_BLHK, inputs.cos, inputs.sin)
        k_BLJK = rope.rotate(k_BLJK, inputs.cos, inputs.sin)

        # Queries attend to this pass and to the cache.
        new_kv = k_BLJK, v_BLJK
        seen, kv = with_cache(new_kv, kv, inputs)
        scale = K**-0.5
        attend = inputs.backend.attend
        prepared = inputs.prepared
        attended_BLHK = attend(q_BLHK, *seen, prepared, scale)
        attended_BLD = jnp.einsum("BLHK,HKD->BLD", attended_BLHK, o_HKD)
        if c.bias == "all":
            attended_BLD += self._bias("o_bias_D", (D,), dtype)
        return attended_BLD, kv

    def _weight(
        self,
        name: str,
        initial: Initializer,
        shape: tuple[int, ...],
        dtype: jnp.dtype,
    ) -> jax.Array:
        weight = self.param(name, initial, shape)
        return weight.astype(dtype)

    def _bias(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: jnp.dtype,
    ) -> jax.Array:
        zeros = nn.initializers.zeros
        return self._weight(name, zeros, shape, dtype)

    def _normed(self, name: str, x_BLHK: jax.Array) -> jax.Array:
        """Returns the heads normalised, with one gain for all of them."""
        size = self.config.head_size
        ones = nn.initializers.ones
        gain_K = self.param(name, ones, (size,))
        return norms.rms(x_BLHK, gain_K, self.epsilon)


def with_cache(
    new_kv: KV,
    kv: KV | None,
    inputs: LayerInputs,
) -> tuple[KV, KV | None]:
    """Returns the keys and values that a layer's queries attend to, and those to cache.

    Args:
        new_kv: of the positions that are computed, [B, L, J, K] each.
        kv: of the layer's cache, [B, M, J, K], or None.
        inputs: say where the new ones are written.

    Of two streams z comes first and is never cached.
    """
    if kv is None:
        return new_kv, None
    slots = inputs.slots
    assert slots is not None, "a cache needs slots"
    length = new_kv[0].shape[1]
    half = inputs.noised(length)
    # Queries of both streams attend to the noised tokens of this pass, which are not cached.
    seen, written = [], []
    for new_BLJK, old_BMJK in zip(new_kv, kv, strict=True):
        noised_BLJK, clean_BLJK = jnp.split(new_BLJK, [half], 1)
        all_BMJK = cache.write(old_BMJK, clean_BLJK, slots)
        written.append(all_BMJK)
        # The cache may be of lower precision.
        dtype = new_BLJK.dtype
        all_BMJK = all_BMJK.astype(dtype)
        if half:
            all_BMJK = jnp.concatenate([noised_BLJK, all_BMJK], 1)
        seen.append(all_BMJK)
    (k_BMJK, v_BMJK), (k_written, v_written) = seen, written
    return (k_BMJK, v_BMJK), (k_written, v_written)
