"""Keys of random numbers, one for each row, so that a row does not depend on the others."""

import jax
from jax import Array

from dlm.core import keys

Number = int | Array


def named(key_B: Array, stream: str, step: Number = 0) -> Array:
    """Returns the key of a stream at a step (`keys.key`), for each row."""

    def of_row(key):
        return keys.key(key, stream, step)

    return jax.vmap(of_row)(key_B)


def at(key_B: Array, number: Number) -> Array:
    """Returns the key of a number, for each row."""
    of_rows = jax.vmap(jax.random.fold_in, (0, None))
    return of_rows(key_B, number)


def split(key_B: Array, count: int) -> tuple[Array, ...]:
    """Returns several keys for each row."""

    def of_row(key):
        return jax.random.split(key, count)

    rows = jax.vmap(of_row)(key_B)
    return tuple(rows[:, i] for i in range(count))
