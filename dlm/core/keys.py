"""Random numbers: one root key per run, a stream per purpose, a key per sample; exact draws.

Every draw of a run is a function of (seed, stream, step, global sample index) and of nothing else,
so neither the number of devices, hosts or microbatches nor the order of a batch changes it. A key
is never split after it was used.

Categorical draws invert the distribution function instead of adding Gumbel noise: float32 Gumbel
noise is truncated, which lowers the effective temperature (arXiv:2409.02908) and makes rare events
impossible.
"""

import zlib

import jax
import jax.numpy as jnp

_COLUMNS = 64  # ids of a bucket in the two-level search of `categorical`


def root(seed: int) -> jax.Array:
    """Return the run's root key."""
    return jax.random.key(seed)


def key(root_key: jax.Array, stream: str, step: int | jax.Array = 0) -> jax.Array:
    """Return the key of `stream` (any name: 'noise', 'eval', …) at `step`.

    Streams are independent. The stream's name seeds the key, so names in use are never changed.
    """
    number = zlib.crc32(stream.encode()) & 0x7FFFFFFF
    stream_key = jax.random.fold_in(root_key, number)
    return jax.random.fold_in(stream_key, step)


def words(key: jax.Array) -> list[int]:
    """Return the integers that a key consists of, to store it."""
    return jax.random.key_data(key).tolist()


def per_sample(step_key: jax.Array, index_B: jax.Array) -> jax.Array:
    """Return one key per sample, a function of its global index alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(step_key, index_B)


def uniform_BL(key_B: jax.Array, length: int) -> jax.Array:
    """Draw U[0, 1) per row and position; the draw of a position does not depend on `length`."""

    def one_row(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (length,))

    return jax.vmap(one_row)(key_B)


def categorical(key_B: jax.Array, logits_BLV: jax.Array) -> jax.Array:
    """Draw ids_BL exactly from softmax(logits); entries at −inf are never drawn.

    The distribution function is inverted in two levels (bucket of 64 ids, then id), each with its
    own uniform, so that float32 partial sums stay accurate for large vocabularies. Where the total
    is no positive number (a logit at +inf), the most likely id is taken.
    """
    B, L, V = logits_BLV.shape
    highest_BL1 = logits_BLV.max(-1, keepdims=True)
    mass_BLV = jnp.exp(logits_BLV - highest_BL1).astype(jnp.float32)
    # Ids without mass fill up the last bucket.
    missing = -V % _COLUMNS
    padding = ((0, 0), (0, 0), (0, missing))
    mass_BLV = jnp.pad(mass_BLV, padding)
    buckets = mass_BLV.reshape(B, L, -1, _COLUMNS)

    def pairs(key: jax.Array) -> jax.Array:
        return jax.random.uniform(key, (L, 2))

    u_BL2 = jax.vmap(pairs)(key_B)

    # First the bucket, then the id inside of it.
    sums = buckets.sum(-1)
    bucket_BL = _invert(sums, u_BL2[..., 0])
    index = bucket_BL[..., None, None]
    inside = jnp.take_along_axis(buckets, index, axis=2)[..., 0, :]
    drawn_BL = bucket_BL * _COLUMNS + _invert(inside, u_BL2[..., 1])
    valid_BL = sums.sum(-1) > 0

    def with_argmax():
        likeliest_BL = logits_BLV.argmax(-1).astype(jnp.int32)
        return jnp.where(valid_BL, drawn_BL, likeliest_BL)

    def without():
        return drawn_BL

    # A cond skips the argmax in the usual case.
    return jax.lax.cond(valid_BL.all(), without, with_argmax)


def _invert(mass: jax.Array, u: jax.Array) -> jax.Array:
    """Return the first index of positive mass at which the cumulative mass exceeds u·total.

    Parallel partial sums need not be monotone: one may exceed its predecessor where the mass is 0,
    and the total may exceed all others.
    """
    cumulative = jnp.cumsum(mass, -1)
    total = cumulative[..., -1]
    below_total = total * (1 - 2**-23)
    target = jnp.minimum(u * total, below_total)
    possible = mass > 0
    reached = possible & (cumulative > target[..., None])
    # One search for the first reached index, else the first possible: two take twice as long.
    rank = possible.astype(jnp.int8) + reached.astype(jnp.int8)
    return jnp.argmax(rank, -1).astype(jnp.int32)
