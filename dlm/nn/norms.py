"""Root-mean-square normalisation, in float32: x / √(mean x² + ε) · g (arXiv:1910.07467)."""

import jax
import jax.numpy as jnp

EPSILON = 1e-6


def rms(x, gain=None, epsilon: float = EPSILON):
    """Returns x normalised along its last axis, times the learned gain.

    The gain starts at 1 and is stored as published weights store it.
    """
    wide = x.astype(jnp.float32)
    square = jnp.mean(wide * wide, -1, keepdims=True)
    wide = wide * jax.lax.rsqrt(square + epsilon)
    if gain is not None:
        wide = wide * gain
    return wide.astype(x.dtype)
