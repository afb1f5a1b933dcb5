"""The integrand of the bound of a process that mixes a token with masks and uniform noise.

    KL(q(· | x) ‖ q(· | x̂)) + r − log r − 1,     r = q(z | x) / q(z | x̂),     q(· | x̂) = α x̂ + β

(GIDD, arXiv:2503.04482, eq. 13.) β = m δ_mask + u /n; x̂: the network's law of x, of which q is a
mixture. Everything is computed as a multiple of α, since the weight of the bound grows as 1/α and
the bracket falls with α. Differences of near numbers are avoided: each branch below is chosen
where it does not cancel.

Shapes: B rows, L positions, V ids. α and each = u/n are [B, L].
"""

import jax.numpy as jnp
from jax import Array

from dlm.core.contracts import Prediction

TINY = 1e-18  # its square is still a float32


def scaled(
    prediction: Prediction,
    x_BL: Array,
    z_BL: Array,
    *,
    alpha_BL: Array,
    each_BL: Array,
    masked_BL: Array,
) -> Array:
    """Returns (KL + r − log r − 1)/α at each position.

    Args:
      prediction: the network's law of the clean tokens.
      x_BL: clean tokens, to which the prediction gives a log-probability.
      z_BL: noised tokens.
      alpha_BL: probability that a token survives, at least TINY.
      each_BL: probability that uniform noise gives one particular token.
      masked_BL: where z is a mask.
    """
    probs_BLV = prediction.probs()
    log_p_x_BL = prediction.log_prob(x_BL)
    # The divergence of the two laws of z, then what z itself adds.
    p_x_BL = jnp.exp(log_p_x_BL)
    kl_BL = _kl(probs_BLV, p_x_BL, log_p_x_BL, alpha_BL, each_BL)
    p_here_BL = jnp.take_along_axis(probs_BLV, z_BL[..., None], -1)[..., 0]
    # A token that survived, or that noise happened to choose.
    same_BL = z_BL == x_BL
    return kl_BL + _ratio(p_here_BL, same_BL, masked_BL, alpha_BL, each_BL)


def _ratio(
    p_here_BL,
    same_BL,
    masked_BL,
    alpha_BL,
    each_BL,
) -> Array:
    """Returns (r − 1 − log r)/α; a mask has r = 1. `p_here_BL` is x̂(z)."""
    # q(z | x̂), and 1 where z is a mask.
    p_z_BL = jnp.maximum(alpha_BL * p_here_BL + each_BL, TINY)
    p_z_BL = jnp.where(masked_BL, 1.0, p_z_BL)
    excess_BL = jnp.where(masked_BL, 0.0, same_BL - p_here_BL) / p_z_BL  # (r − 1)/α
    # Where r is near 0, log r is computed from its two logarithms, else from 1 + (r − 1).
    small_BL = ~masked_BL & ~same_BL & (each_BL < 0.5 * p_z_BL)
    near_BL = jnp.log1p(
        jnp.maximum(alpha_BL * jnp.where(small_BL, 0.0, excess_BL), -0.75)
    )
    far_BL = jnp.log(jnp.maximum(each_BL, TINY)) - jnp.log(p_z_BL)
    log_r_BL = jnp.where(small_BL, far_BL, near_BL)
    return excess_BL - log_r_BL / alpha_BL


def _kl(
    probs_BLV,
    p_x_BL,
    log_p_x_BL,
    alpha_BL,
    each_BL,
) -> Array:
    """Returns KL(α δ_x + β ‖ α x̂ + β)/α as Σ_v (p − q + q log q/p)/α.

    Its terms are all small where the two laws are near.
    """
    # The tokens other than x: their probability is β under x.
    slope_BL = alpha_BL / jnp.maximum(each_BL, TINY)
    all_BL = _beyond(probs_BLV, slope_BL[..., None], each_BL[..., None]).sum(-1)
    others_BL = all_BL - _beyond(p_x_BL, slope_BL, each_BL)

    # The token x itself, of probability q under x and q − α (1 − p_x) under x̂.
    q_BL, missing_BL = alpha_BL + each_BL, 1 - p_x_BL
    near_BL = alpha_BL * missing_BL < 0.5 * q_BL
    fall_BL = -jnp.log1p(-jnp.where(near_BL, alpha_BL * missing_BL / q_BL, 0.0))
    log_p_BL = jnp.logaddexp(jnp.log(alpha_BL) + log_p_x_BL, jnp.log(each_BL))
    # Near 1 the ratio is computed from its distance to 1.
    log_ratio_BL = jnp.where(near_BL, fall_BL, jnp.log(q_BL) - log_p_BL)
    return others_BL + log_ratio_BL * q_BL / alpha_BL - missing_BL


def _beyond(
    p,
    slope,
    each,
) -> Array:
    """Returns p − log(1 + slope p)/slope: the term of a token other than x."""
    return p - jnp.where(each > 0, jnp.log1p(slope * p) / slope, 0.0)
