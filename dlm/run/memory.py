"""Keep freed memory instead of handing it back to the kernel and faulting it in again at the next step.

XLA:CPU allocates its temporary buffers anew for every call. glibc maps such large blocks afresh, so each training step of a
small model pays tens of thousands of page faults. One arena, blocks below 2 GiB inside it, and no trimming: they are reused, and a step
takes four fifths of the time. Resident memory then stays at its peak.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # malloc.h of glibc
_LARGEST = 2**31 - 1  # bytes; an int is all it takes


def keep_freed() -> bool:
    """Asks glibc to reuse freed memory; False where there is no glibc. To be called before threads start."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return all(mallopt(option, value) for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _LARGEST)))
