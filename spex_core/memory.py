"""How the C library treats memory that tensors free."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import sys
from collections.abc import Callable, Iterator

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_MMAP_THRESHOLD = 32 << 20  # to which glibc raises its own as programs free large blocks


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """While it lasts, glibc keeps freed memory for the next tensor, where it would hand it back to
    the kernel and get it back a page fault at a time. The peak stays what it is.

    A forward pass on a CPU makes and frees megabytes in every layer, a fit of ProxySPEX in every
    step (tests/test_memory.py counts the faults). Afterwards glibc hands back what is free above
    64 MB, which is as far as it goes by itself. On other C libraries this does nothing.
    """
    mallopt = _mallopt()
    mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        mallopt(TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)


@functools.cache
def _mallopt() -> Callable[[int, int], int]:
    """glibc's, or what does nothing."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not (hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version")):
        return lambda *_: 0
    return libc.mallopt
