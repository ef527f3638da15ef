"""Fresh memory of a large result by huge pages, where the system has them on request (Linux).

A system hands out memory when it is first written, a page at a time. In pages of 4 KiB that takes half a millisecond a
MiB, more than the arithmetic of a weight's gradient in a small batch; the same advice is torch's own for all of its
memory where THP_MEM_ALLOC_ENABLE is set.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable

from torch import Tensor

# Bytes of a result that holds a whole huge page, of 2 MiB, wherever it begins.
LARGE = 2**22

_HUGEPAGE: int = getattr(mmap, "MADV_HUGEPAGE", 0)  # on Linux only


def _of_system() -> Callable[[int, int, int], int] | None:
    if sys.platform != "linux" or not _HUGEPAGE:
        return None
    try:
        madvise = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):  # a Python that is linked with nothing
        return None
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return madvise


_madvise = _of_system()


def advise(*results: Tensor) -> None:
    """Ask for huge pages behind results that are about to be written for the first time.

    It is advice: where the system does not follow it, nothing changes.
    """
    if _madvise is None:
        return
    for result in results:
        if result.nbytes >= LARGE and result.is_cpu:
            begin = -(-result.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
            _madvise(begin, result.data_ptr() + result.nbytes - begin, _HUGEPAGE)
