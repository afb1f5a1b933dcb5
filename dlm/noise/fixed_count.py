"""A fixed number of masks: exactly k of a group's n positions, every choice equally likely.

    k ~ U{1, …, n},  bound = E_k [ n/k Σ_{i chosen} −log p(x_i | z) ]

This is the bound of any-order autoregression (arXiv:2110.02037; LLaDA, arXiv:2502.09992). It has
the mean of a Bernoulli mask whose rate is uniform and whose weight is 1/t, but the number of masks
varies less. `group_BL` numbers the groups of a row (its blocks, for example), which are runs of
neighbouring positions; None is the whole row.
"""

import jax
import jax.numpy as jnp
from jax import Array


def total(
    value_BL: Array,
    group_BL: Array | None = None,
) -> Array:
    """Returns the sum over each position's group, [B, L], or [B, 1] for the whole row."""
    # Counts may be of booleans.
    value_BL = value_BL.astype(jnp.float32)
    if group_BL is None:
        return value_BL.sum(1, keepdims=True)
    group_BL = jnp.broadcast_to(group_BL, value_BL.shape)

    def sums(
        value_L,
        group_L,
    ):
        sum_G = jax.ops.segment_sum(value_L, group_L, len(value_L))
        # Back to the positions.
        return sum_G[group_L]

    return jax.vmap(sums)(value_BL, group_BL)


def number(
    t_BL: Array,
    size_BL: Array,
) -> Array:
    """Returns k in {1, …, n} for a time in (0, 1]: each k has a cell of length 1/n."""
    # Rounding must not move a time at the end of a cell to the next one.
    cell_BL = jnp.ceil(t_BL * size_BL - 1e-5)
    largest_BL = jnp.maximum(size_BL, 1)
    return jnp.clip(cell_BL, 1, largest_BL)


def chosen(
    u_BL: Array,
    may_BL: Array,
    k_BL: Array,
    group_BL: Array | None = None,
) -> Array:
    """Chooses the k positions of each group with the smallest u, bool_BL, where `may_BL`."""
    L = u_BL.shape[1]
    index_BL = jnp.broadcast_to(jnp.arange(L), u_BL.shape)
    if group_BL is None:
        group_BL = jnp.zeros_like(index_BL)
    group_BL = jnp.broadcast_to(group_BL, u_BL.shape)

    # Sorted by group and u; what may not be chosen comes last in its group.
    order_BL = jnp.where(may_BL, u_BL, 2.0)
    columns = (group_BL, order_BL, index_BL)
    _, _, sorted_BL = jax.lax.sort(columns, dimension=1, num_keys=2)

    def first(group_L):
        first_G = jax.ops.segment_min(jnp.arange(L), group_L, L)
        return first_G[group_L]

    # The rank inside the group: the place in the sorted row, counted from the group's first one.
    place_BL = jnp.argsort(sorted_BL, 1)
    rank_BL = place_BL - jax.vmap(first)(group_BL)
    return may_BL & (rank_BL < k_BL)


def log_law(
    chosen_BL: Array,
    may_BL: Array,
    k_BL: Array,
    group_BL: Array | None = None,
) -> Array:
    """Returns the log probability of a choice, in equal parts on the positions of each group.

    It is log k! (n − k)!/n!, and −∞ where the number of chosen positions is not k.
    """
    n_BL = total(may_BL, group_BL)
    chosen_count_BL = total(chosen_BL, group_BL)
    integers_N = jnp.arange(chosen_BL.shape[1] + 1.0)
    log_N = jnp.log(jnp.maximum(integers_N, 1))
    log_factorial_N = jnp.cumsum(log_N)

    def log_factorial(m_BL):
        return log_factorial_N[m_BL.astype(int)]

    # One over the number of choices.
    log_q_BL = log_factorial(k_BL) + log_factorial(n_BL - k_BL)
    log_q_BL = log_q_BL - log_factorial(n_BL)
    # A group without any position that may be chosen has one choice: none.
    log_q_BL = jnp.where(n_BL > 0, log_q_BL, 0.0)
    expected_BL = jnp.where(n_BL > 0, k_BL, 0)
    forbidden_BL = chosen_BL & ~may_BL
    possible_BL = (chosen_count_BL == expected_BL) & ~forbidden_BL
    # Each position carries an equal part.
    size_BL = total(jnp.ones(chosen_BL.shape), group_BL)
    return jnp.where(possible_BL, log_q_BL / size_BL, -jnp.inf)
