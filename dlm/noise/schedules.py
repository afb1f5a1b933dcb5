"""Noise schedules: how the probability 1 − α(t) that a token is destroyed grows from 0 at t = 0 to 1 at t = 1, exactly.

    linear      1 − α = t                          cosine     1 − α = sin(πt/2)          (MD4, arXiv:2406.04329, table 1)
    polynomial  1 − α = t^power                    geometric  α = exp(−σ(t)), σ = σ0^(1−t) σ1^t, rescaled to end at 1 and 0

Without the rescaling a bound carries a reconstruction term at t = 0 and an infinite one at t = 1. Each schedule gives 1 − α
without cancellation near 0 and the rate −α'/(1−α), the weight of the continuous-time bound.
"""

import math

import jax.numpy as jnp

KINDS = ("linear", "cosine", "polynomial", "geometric")
STEEPEST, FLATTEST = (
    0.5,
    8.0,
)  # powers; t is never drawn below 1e-6, and t^0.2 would leave 6 % of the bound there
WHY = "where no part of the bound lies below the smallest time"
SIGMA = (1e-3, 20.0)  # geometric: σ at t = 0 and t = 1


def mask_prob(kind: str, power: float, t):
    """1 − α(t)."""
    if kind == "linear":
        return jnp.asarray(t)
    if kind == "cosine":
        return jnp.sin(jnp.pi / 2 * t)
    if kind == "polynomial":
        return jnp.power(t, power)
    return jnp.expm1(-_sigma_rise(t)) / math.expm1(SIGMA[0] - SIGMA[1])


def time_of(kind: str, power: float, p_noised):
    """The time at which 1 − α(t) = gone."""
    if kind == "linear":
        return jnp.asarray(p_noised)
    if kind == "cosine":
        return 2 / jnp.pi * jnp.arcsin(jnp.minimum(p_noised, 1.0))
    if kind == "polynomial":
        return jnp.power(p_noised, 1 / power)
    sigma_rise = -jnp.log1p(
        jnp.maximum(jnp.asarray(p_noised) * math.expm1(SIGMA[0] - SIGMA[1]), -1 + 1e-7)
    )
    return jnp.log1p(sigma_rise / SIGMA[0]) / math.log(SIGMA[1] / SIGMA[0])


def rate(kind: str, power: float, t):
    """−α'(t) / (1 − α(t)); grows like 1/t near 0."""
    if kind == "linear":
        return 1 / t
    if kind == "cosine":
        return jnp.pi / 2 / jnp.tan(jnp.pi / 2 * t)
    if kind == "polynomial":
        return power / t
    speed = math.log(SIGMA[1] / SIGMA[0])
    return speed * (SIGMA[0] + _sigma_rise(t)) / jnp.expm1(_sigma_rise(t))


def _sigma_rise(t):
    """σ(t) − σ(0)."""
    return SIGMA[0] * jnp.expm1(t * math.log(SIGMA[1] / SIGMA[0]))
