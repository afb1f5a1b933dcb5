"""Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1): a token is remembered as one short vector for all heads.

    c_Q = rms(W_DQ h)      q_i = [ W_UQ,i c_Q ; rope(W_QR,i c_Q) ]              c  [R] and r [K] are all that a cache keeps
    c = rms(W_DKV h)       k_i = [ W_UK,i c   ; r ],   v_i = W_UV,i c           of a token, whatever the number of heads
    r = rope(W_KR h)       heard_i = softmax(q_i · k_i / √(nope + rope)) v_i

The same sums in two orders: keys and values of all heads are made from the memory (`wide`), or, where few positions ask a long memory, the
queries go into the latent space and what is heard comes out of it, W_UK and W_UV once for each query instead of each key (`absorbed`):

    q_i · k_i = (W_UK,iᵀ q_i) · c + q_i · r        Σ_m w_m v_m = W_UV,i Σ_m w_m c_m
"""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from dlm.nn import attention, config, norms, rope


class LatentAttention(nn.Module):
    config: config.Attention
    width: int
    layers: int  # of the whole network: scales the output projection's initial size
    epsilon: float = norms.EPSILON

    @nn.compact
    def __call__(self, x_BLD, cos, sin, allowed, kv=None, slots=None):
        """As `attention.SelfAttention`; `kv` is (rotary keys, latents), each of one head."""
        c, t, dtype = self.config, self.config.latent, x_BLD.dtype
        D, H, R = self.width, c.heads, t.kv_rank

        def weight(name, *shape):
            return self.param(name, nn.initializers.normal(shape[0] ** -0.5), shape).astype(dtype)

        def normed(name, x):
            return (
                norms.rms(x, self.param(name, nn.initializers.ones, x.shape[-1:]), self.epsilon)
                if c.qk_norm == "rms"
                else x
            )

        if t.q_rank:
            low_BLQ = normed(
                "q_norm_Q", jnp.einsum("BLD,DQ->BLQ", x_BLD, weight("q_down_DQ", D, t.q_rank))
            )
            q_BLHK = jnp.einsum(
                "BLQ,QHK->BLHK", low_BLQ, weight("q_up_QHK", t.q_rank, H, t.nope + t.rope)
            )
        else:
            q_BLHK = jnp.einsum("BLD,DHK->BLHK", x_BLD, weight("q_DHK", D, H, t.nope + t.rope))
        low_BLR = normed("kv_norm_R", jnp.einsum("BLD,DR->BLR", x_BLD, weight("kv_down_DR", D, R)))
        r_BLK = jnp.einsum("BLD,DK->BLK", x_BLD, weight("k_rope_DK", D, t.rope))
        q_BLHK = jnp.concatenate(
            [q_BLHK[..., : t.nope], rope.rotate(q_BLHK[..., t.nope :], cos, sin)], -1
        )
        new_kv = rope.rotate(r_BLK[:, :, None], cos, sin), low_BLR[:, :, None]
        up = weight("k_up_RHK", R, H, t.nope), weight("v_up_RHK", R, H, t.value)
        outward = nn.initializers.normal((2 * self.layers * H * t.value) ** -0.5)
        o_HKD = self.param("o_HKD", outward, (H, t.value, D)).astype(dtype)
        attended_BLHK, kv = attention.attend_with_cache(
            q_BLHK, new_kv, allowed, kv, slots, partial(attend, *up)
        )
        return jnp.einsum("BLHK,HKD->BLD", attended_BLHK, o_HKD), kv


def attend(k_up_RHK, v_up_RHK, q_BLHK, r_BMJK, low_BMJR, allowed):
    """What each query hears, in the order that takes fewer multiplications."""
    R, L, M = len(k_up_RHK), q_BLHK.shape[1], r_BMJK.shape[1]
    own = k_up_RHK.shape[-1] + v_up_RHK.shape[-1]
    few = L * R * own + L * M * 2 * R < M * R * own + L * M * own
    return (absorbed if few else wide)(k_up_RHK, v_up_RHK, q_BLHK, r_BMJK, low_BMJR, allowed)


def wide(k_up_RHK, v_up_RHK, q_BLHK, r_BMJK, low_BMJR, allowed):
    low_BMR, H = low_BMJR[:, :, 0], k_up_RHK.shape[1]
    k_BMHK = jnp.einsum("BMR,RHK->BMHK", low_BMR, k_up_RHK)
    r_BMHK = jnp.broadcast_to(r_BMJK, (*r_BMJK.shape[:2], H, r_BMJK.shape[-1]))
    v_BMHK = jnp.einsum("BMR,RHK->BMHK", low_BMR, v_up_RHK)
    return attention.attend(q_BLHK, jnp.concatenate([k_BMHK, r_BMHK], -1), v_BMHK, allowed)


def absorbed(k_up_RHK, v_up_RHK, q_BLHK, r_BMJK, low_BMJR, allowed):
    nope = k_up_RHK.shape[-1]
    absorbed_query_BLHR = jnp.einsum("BLHK,RHK->BLHR", q_BLHK[..., :nope], k_up_RHK)
    absorbed_query_BLHK = jnp.concatenate([absorbed_query_BLHR, q_BLHK[..., nope:]], -1)
    key_BMJK = jnp.concatenate([low_BMJR, r_BMJK], -1)
    attended_BLHR = attention.attend(
        absorbed_query_BLHK, key_BMJK, low_BMJR, allowed, size=q_BLHK.shape[-1]
    )
    return jnp.einsum("BLHR,RHK->BLHK", attended_BLHR, v_up_RHK)
