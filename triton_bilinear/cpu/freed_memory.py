"""Memory that a call frees, kept by the process for the next call, where glibc would give it back to the system.

glibc gives back the free end of its heap once it is more than twice as long as the largest block that it has so far got
from the system for itself alone and freed (mallopt(3), M_TRIM_THRESHOLD). Before a program has freed a large block,
that makes each call get its few MiB anew, page by page: a third of a training step of small features.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# Bytes, several times what a call takes beside its results.
BLOCK = 2**24


@cache
def keep() -> None:
    """Free a block of the system's once, which is never written and so takes no memory.

    To glibc it is as if the program had freed any tensor of that size. Elsewhere it changes nothing.
    """
    if sys.platform != "linux":
        return
    try:
        libc = ctypes.CDLL(None)
        malloc, free = libc.malloc, libc.free
    except (OSError, AttributeError):  # a Python that is linked with nothing
        return
    malloc.argtypes, malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
    free.argtypes, free.restype = (ctypes.c_void_p,), None
    free(malloc(BLOCK))
