"""Rotary position embedding: scores depend on the distance d by a rotation of d·θ_k.

Source: arXiv:2104.09864, eq. 15. Frequencies of the K/2 pairs of dimensions:

plain     θ_k = base^(−2k/K)
linear    θ_k / factor: positions are read as if so many times closer (arXiv:2306.15595)
llama3    θ_k where a turn takes less than original/high positions, θ_k / factor where it takes
          more than original/low, and between the two a mean that slides from one to the other
          (Llama 3.1's configuration, `rope_type: llama3`)
"""

import math

import jax.numpy as jnp

from dlm.nn import config


def angles(positions_BL, size: int, rope: config.Rope):
    """(cos, sin), each float32 [B, L, 1, size/2]."""
    theta = rope.base ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    if rope.kind != "plain":
        theta *= _slow(theta, rope) + (1 - _slow(theta, rope)) / rope.factor
    angle = positions_BL[..., None, None].astype(jnp.float32) * theta
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x_BLHK, cos, sin):
    """x with the pair (k, k + K/2) of every head rotated by its angle."""
    a, b = jnp.split(x_BLHK, 2, -1)
    cos, sin = cos.astype(x_BLHK.dtype), sin.astype(x_BLHK.dtype)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def _slow(theta, rope: config.Rope):
    """How much of a frequency stays as it is."""
    if rope.kind == "linear":
        return 0.0
    turns = rope.original * theta / (2 * math.pi)  # within the length of the first training
    return jnp.clip((turns - rope.low) / (rope.high - rope.low), 0, 1)
