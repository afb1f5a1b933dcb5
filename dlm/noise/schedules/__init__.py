"""Noise schedules: how the probability 1 − α(t) that a token is destroyed grows with time t.

    linear      1 − α = t                     cosine      1 − α = sin(πt/2)
    polynomial  1 − α = t^power               geometric   α = exp(−σ(t)), rescaled

Each member is exactly 0 at t = 0 and 1 at t = 1. Otherwise a bound would need a reconstruction
term at t = 0 and an infinite one at t = 1. A member gives three functions of arrays:

    noised(t)         1 − α(t), without cancellation near 0, at most 1e-3 at t = 1e-6
    time_of(noised)   the inverse of noised
    rate(t)           −α'(t)/(1 − α(t)), the weight of the continuous-time bound
"""
