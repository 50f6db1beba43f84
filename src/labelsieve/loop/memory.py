"""What the C library does with memory that is freed and soon wanted again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Names of glibc's malloc.h, and the values that it rises to by itself: its present ones cannot be
# asked for.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_USUAL = ((_MMAP_MAX, 65_536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Let what one training step frees serve the next one, in place of going back to the system.

    glibc gives blocks above 32 MB back at once and gets them anew, page by page, at each step: a
    tenth of the time of a ResNet-18 on a CPU, for 5 to 28 % more memory at the peak. For the whole
    process while it lasts; does nothing where there is another C library.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        for name, value in _USUAL:
            libc.mallopt(name, value)
        libc.malloc_trim(0)
