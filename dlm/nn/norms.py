"""Root-mean-square normalisation, in float32: x / √(mean x² + ε) · g (arXiv:1910.07467)."""

import jax
import jax.numpy as jnp

EPSILON = 1e-6


def rms(x, gain=None, epsilon: float = EPSILON):
    """Returns x normalised along its last axis, times the learned gain.

    The gain starts at 1 and is stored as published weights store it.
    """
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + epsilon)
    return (wide if gain is None else wide * gain).astype(x.dtype)
