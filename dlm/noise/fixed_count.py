"""A fixed number of destroyed positions: of a group's n positions exactly k are chosen, every choice equally likely.

    k ~ U{1, …, n},  bound = E_k [ n/k Σ_{i chosen} −log p(x_i | z) ]        any-order autoregression (arXiv:2110.02037; LLaDA, 2502.09992)

The same mean as a Bernoulli mask whose rate is uniform and whose weight is 1/t, but the number of masks scatters less. `group_BL` numbers
the groups of a row (its blocks, say), which are runs of neighbouring positions; None is the whole row.
"""

import jax
import jax.numpy as jnp


def total(value_BL, group_BL=None):
    """The sum over each position's group, [B, L] (or [B, 1] for the whole row)."""
    value_BL = value_BL.astype(jnp.float32)
    if group_BL is None:
        return value_BL.sum(1, keepdims=True)
    group_BL = jnp.broadcast_to(group_BL, value_BL.shape)
    return jax.vmap(lambda v_L, g_L: jax.ops.segment_sum(v_L, g_L, len(v_L))[g_L])(
        value_BL, group_BL
    )


def number(t_BL, size_BL):
    """k in {1, …, n} from a time in (0, 1]: each k has a cell of length 1/n."""
    return jnp.clip(jnp.ceil(t_BL * size_BL - 1e-5), 1, jnp.maximum(size_BL, 1))


def chosen(u_BL, may_BL, k_BL, group_BL=None):
    """bool_BL: the k positions of each group with the smallest u among those that may be chosen."""
    L = u_BL.shape[1]
    place_BL = jnp.broadcast_to(jnp.arange(L), u_BL.shape)
    group_BL = (
        jnp.zeros_like(place_BL) if group_BL is None else jnp.broadcast_to(group_BL, u_BL.shape)
    )
    sorted_BL = jax.lax.sort(
        (group_BL, jnp.where(may_BL, u_BL, 2.0), place_BL), dimension=1, num_keys=2
    )[2]
    first_BL = jax.vmap(lambda g_L: jax.ops.segment_min(jnp.arange(L), g_L, L)[g_L])(group_BL)
    rank_BL = jnp.argsort(sorted_BL, 1) - first_BL
    return may_BL & (rank_BL < k_BL)


def log_law(chosen_BL, may_BL, k_BL, group_BL=None):
    """log probability of a choice, in equal parts on the positions of each group; −inf where the number is not k."""
    n_BL, chosen_count_BL = total(may_BL, group_BL), total(chosen_BL, group_BL)
    factorial_N = jnp.cumsum(
        jnp.log(jnp.maximum(jnp.arange(chosen_BL.shape[1] + 1.0), 1))
    )  # log n!
    log_q_BL = sum(
        sign * factorial_N[m_BL.astype(int)]
        for sign, m_BL in ((1, k_BL), (1, n_BL - k_BL), (-1, n_BL))
    )
    parts_BL = total(jnp.ones(chosen_BL.shape), group_BL)
    right_BL = jnp.where(n_BL > 0, chosen_count_BL == k_BL, chosen_count_BL == 0) & ~(
        chosen_BL & ~may_BL
    )
    return jnp.where(right_BL, jnp.where(n_BL > 0, log_q_BL, 0.0) / parts_BL, -jnp.inf)
