"""Keep freed memory for the next step instead of returning it to the kernel.

XLA:CPU allocates its temporary buffers at every call. glibc maps blocks of that size afresh, so a
training step of a small model pays tens of thousands of page faults. With blocks below 2 GiB inside
the heap, and no trimming, the memory is reused; resident memory then stays at its peak.

Only the main thread's heap can keep large blocks, so programs must run in it (`run_inline`). One
heap for all threads would work as well, but then the threads that compile wait for each other.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # options of mallopt, from glibc's malloc.h
_LARGEST = 2**31 - 1  # bytes; the options are ints


def keep_freed() -> bool:
    """Make glibc reuse freed memory; return False where there is no glibc.

    Call it before threads start.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return all(
        mallopt(option, _LARGEST) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD)
    )


def run_inline() -> None:
    """Let XLA:CPU run a program of one device in the calling thread.

    Call it before JAX looks for devices.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
