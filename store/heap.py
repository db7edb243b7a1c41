"""How glibc deals with memory that is freed: settings of the whole process."""

from __future__ import annotations

import ctypes

KEPT_BYTES = 256 << 20
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_MMAP_BYTES = 32 << 20  # the most that glibc takes


def keep_freed_memory() -> None:
    """Keep up to ``KEPT_BYTES`` that were freed for the next use, where the C library is glibc.

    A commit takes tens of MiB for a moment. By itself glibc gives them back, and the kernel hands them out again page
    by page, each of them cleared, with the next commit: 4 % of the CPU time of a trainer that commits every second.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
