"""Rotary position embedding: scores depend on the distance d by a rotation of d·θ_k.

Source: arXiv:2104.09864, eq. 15. Frequencies of the K/2 pairs of dimensions:

plain     θ_k = base^(−2k/K)
linear    θ_k / factor: positions are read as if so many times closer (arXiv:2306.15595)
llama3    θ_k where a turn takes less than original/high positions, θ_k / factor where it takes
          more than original/low, and between the two a mean that slides from one to the other
          (Llama 3.1's configuration, `rope_type: llama3`)
"""

import math

import jax
import jax.numpy as jnp

from dlm.nn import config


def angles(
    positions_BL: jax.Array,
    size: int,
    rope: config.Rope,
):
    """Returns (cos, sin) of the angles of each position, float32 [B, L, 1, size/2]."""
    exponent = -jnp.arange(0, size, 2, dtype=jnp.float32) / size
    theta = rope.base**exponent
    if rope.kind != "plain":
        plain = _plain_share(theta, rope)
        theta *= plain + (1 - plain) / rope.factor
    positions = positions_BL[..., None, None]
    angle = positions.astype(jnp.float32) * theta
    return jnp.cos(angle), jnp.sin(angle)


def rotate(
    x_BLHK: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
):
    """Returns x with the pair (k, k + K/2) of every head rotated by its angle."""
    a, b = jnp.split(x_BLHK, 2, -1)
    # Angles are float32, products have the dtype of the activations.
    cos = cos.astype(x_BLHK.dtype)
    sin = sin.astype(x_BLHK.dtype)
    turned_a = a * cos - b * sin
    turned_b = b * cos + a * sin
    return jnp.concatenate([turned_a, turned_b], -1)


def _plain_share(theta: jax.Array, rope: config.Rope):
    """Returns how much of each frequency is left as it is, in [0, 1]."""
    if rope.kind == "linear":
        return 0.0
    # Turns within the length of the first training.
    turns = rope.original * theta / (2 * math.pi)
    slope = rope.high - rope.low
    return jnp.clip((turns - rope.low) / slope, 0, 1)
