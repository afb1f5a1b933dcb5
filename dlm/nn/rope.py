"""Rotary position embedding: a query and a key at distance d meet under a rotation by d·θ_k (arXiv:2104.09864, eq. 15)."""

import jax.numpy as jnp


def angles(positions_BL, head_size: int, base: float):
    """(cos, sin), each float32 [B, L, 1, K/2]; θ_k = base^(−2k/K)."""
    theta = base ** (-jnp.arange(0, head_size, 2, dtype=jnp.float32) / head_size)
    angle = positions_BL[..., None, None].astype(jnp.float32) * theta
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BLHK, cos, sin):
    """x with the pair (k, k + K/2) of every head rotated by its angle."""
    a, b = jnp.split(x_BLHK, 2, -1)
    cos, sin = cos.astype(x_BLHK.dtype), sin.astype(x_BLHK.dtype)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
