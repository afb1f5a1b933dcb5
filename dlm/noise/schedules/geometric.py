"""The geometric schedule, α = exp(−σ(t)) with σ = σ₀^(1−t) σ₁^t (SEDD, arXiv:2310.16834).

α is rescaled to end at exactly 1 and 0:   1 − α = (1 − exp(σ₀ − σ(t))) / (1 − exp(σ₀ − σ₁)).
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

_START, _END = 1e-3, 20.0  # σ₀ and σ₁
_SPEED = math.log(_END / _START)  # d log σ / dt


@dataclass(frozen=True)
class Geometric:
    """Multiplies the noise level σ by the same factor in equal times."""

    def noised(self, t: Array) -> Array:
        """Returns 1 − α(t)."""
        return jnp.expm1(-_rise(t)) / math.expm1(_START - _END)

    def time_of(self, noised: Array) -> Array:
        """Returns the time t with 1 − α(t) = noised."""
        # At noised = 1 the logarithm of 0 would lose the end of time.
        scaled = jnp.asarray(noised) * math.expm1(_START - _END)
        rise = -jnp.log1p(jnp.maximum(scaled, -1 + 1e-7))
        return jnp.log1p(rise / _START) / _SPEED

    def rate(self, t: Array) -> Array:
        """Returns −α'(t)/(1 − α(t))."""
        # σ'(t) over exp(σ(t) − σ(0)) − 1.
        return _SPEED * (_START + _rise(t)) / jnp.expm1(_rise(t))


def _rise(t: Array) -> Array:
    """Returns σ(t) − σ(0), without cancellation."""
    return _START * jnp.expm1(t * _SPEED)
