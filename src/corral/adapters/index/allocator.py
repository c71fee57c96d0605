"""What the C library's allocator keeps of freed memory."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_LARGE_BYTES: Final = 1 << 18
"""Tantivy's pages are four times as large, a batch's arrays smaller. With 1 MB, 50,000 files took
172 MB, not 134."""
_KEPT_BYTES: Final = 4 << 20


@cache
def return_large_blocks() -> None:
    """Have this process give large blocks back to the system as soon as they are freed, from now on.

    Left alone, glibc raises the size from which it does so to that of the largest block that was ever freed, and what
    one thread has allocated and another freed then lies among what is used. Other libraries have no such habit.
    """
    library = _glibc()
    if library is not None:
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back() -> None:
    """Let the system have what was freed in small blocks too; it takes some milliseconds."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
