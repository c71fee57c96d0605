"""Python's garbage collector while an index is built.

A build makes millions of objects and hardly a cycle, so that a tenth of its time went into looking for cycles.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_THRESHOLD: Final = (50_000, 20, 100)
_lock = threading.Lock()
_running = 0
_before = gc.get_threshold()


@contextmanager
def patient_collector() -> Iterator[None]:
    """Have it look less often; it looks as before when the last of several builds at once has ended."""
    global _running, _before  # noqa: PLW0603 - the collector is the whole process's
    with _lock:
        if not _running:
            _before = gc.get_threshold()
            gc.set_threshold(*(max(pair) for pair in zip(_before, _THRESHOLD, strict=True)))
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if not _running:
                gc.set_threshold(*_before)
