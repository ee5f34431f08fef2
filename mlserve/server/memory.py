"""How the process gives memory back to the system: large blocks at once."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_MAPPED = 2 * 2**20
_TRIMMED = 4 * 2**20


def give_back_large_blocks() -> None:
    """Makes glibc's malloc map blocks of 2 MiB and more by themselves, and unmap them when freed.

    Left alone, it raises that limit to 32 MiB as such blocks are freed, and keeps up to twice as
    much of each heap: the pixels of one large image stay in the server's memory. Does nothing where
    the C library has no `mallopt`.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED)
