"""Measure the peak FLOP/s of this machine: the best large matmul, timed now.

Shares of peak in logs refer to it.
"""

import time

import jax
import jax.numpy as jnp


def measure(dtype: str = "float32", repeats: int = 6) -> float:
    """Return FLOP/s of all local devices: the best square matmul of one, times their number.

    Virtual CPU devices share their cores and count once.
    """
    devices = jax.local_devices()
    is_cpu = devices[0].platform == "cpu"
    size = 1536 if is_cpu else 8192
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(a, a).block_until_ready()  # compiles
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        multiply(a, a).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    count = 1 if is_cpu else len(devices)
    return 2 * size**3 / best * count
