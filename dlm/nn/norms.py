"""Root-mean-square normalisation, in float32 whatever the compute dtype: x / √(mean x² + ε) · (1 + g) (arXiv:1910.07467)."""

import jax
import jax.numpy as jnp

EPSILON = 1e-6


def rms(x, gain=None):
    """x normalised along its last axis; the learned gain is stored around 0, so that zeros mean 'as it is'."""
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + EPSILON)
    return (wide if gain is None else wide * (1 + gain)).astype(x.dtype)
