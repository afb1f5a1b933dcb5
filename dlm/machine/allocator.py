"""Keep freed memory instead of handing it back to the kernel and faulting it in again at the next step.

XLA:CPU allocates its temporary buffers anew for every call. glibc maps such large blocks afresh, so each training step of a
small model pays tens of thousands of page faults. With blocks below 2 GiB inside the heap and no trimming they are reused.
Resident memory then stays at its peak.

Only the main thread has a heap that can keep large blocks, so programs must run in it (`run_inline`). One heap for all threads would do
as well, but there the threads that compile wait for each other.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_LARGEST = 2**31 - 1  # bytes; an int is all it takes


def keep_freed() -> bool:
    """Asks glibc to reuse freed memory; False where there is no glibc. To be called before threads start."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return all(mallopt(option, _LARGEST) for option in (_MMAP_THRESHOLD, _TRIM_THRESHOLD))


def run_inline() -> None:
    """Has XLA:CPU run a program of one device in the thread that calls it. To be called before JAX looks for devices."""
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)
