"""What this machine's matrix units really give: the best large matmul, timed now. Shares of peak refer to it."""

import time

import jax
import jax.numpy as jnp


def measure(dtype: str = "float32", repeats: int = 6) -> float:
    """FLOP/s of all local devices: the best of a few square matmuls on one device, times their number (virtual CPU devices
    share their cores and count once)."""
    devices = jax.local_devices()
    size = 1536 if devices[0].platform == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a, b: a @ b)
    multiply(a, a).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        begin = time.perf_counter()
        multiply(a, a).block_until_ready()
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best * (1 if devices[0].platform == "cpu" else len(devices))
