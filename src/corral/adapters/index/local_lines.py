"""Runs of lines out of files' texts; the texts that were asked for last are kept."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

import numpy as np

from corral.adapters.index.local_columns import numbers

KEPT_BYTES = 32_000_000
_NEWLINE = ord("\n")


class Lines:
    """A text whose lines can be had by their numbers."""

    __slots__ = ("_breaks", "text")

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._breaks = numbers(np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == _NEWLINE))

    def between(self, start: int, end: int) -> str:
        """From line ``start`` to ``end``, which count from 1 and both belong to it, without a last newline."""
        text, breaks = self.text, self._breaks
        begin = breaks[start - 2] + 1 if 2 <= start <= len(breaks) + 1 else (0 if start < 2 else len(text))
        stop = breaks[end - 1] if end <= len(breaks) else len(text)
        return text[begin:stop].decode("utf-8", "replace")


class LineCache:
    """Texts with the places of their lines; threads may share it.

    Args:
        limit_bytes: How much text is kept; questions of one task are about few files, and unpacking one costs more
            than all the rest of an answer.
    """

    def __init__(self, limit_bytes: int = KEPT_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[Hashable, Lines] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Lines | None:
        """A text that is kept."""
        try:
            lines = self._kept[key]
            self._kept.move_to_end(key)
        except KeyError:  # never kept, or dropped just now
            return None
        return lines

    def keep(self, key: Hashable, text: bytes) -> Lines:
        """A text that was not kept, and is now."""
        lines = Lines(text)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = lines
                self._size += len(text)
                while self._size > self._limit and len(self._kept) > 1:
                    self._size -= len(self._kept.popitem(last=False)[1].text)
        return lines

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._kept.clear()
            self._size = 0
