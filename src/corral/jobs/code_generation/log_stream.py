"""A model's text, as it comes, into the job's log: whole lines, a few at a time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

_LONGEST_LINE = 2000
_WRITE_EVERY_S = 0.5


class LogStream:
    """Gathers pieces into lines, and lines into round trips."""

    def __init__(self, log: Callable[..., Awaitable[None]]) -> None:
        self._log = log
        self._pending = ""
        self._written_at = time.monotonic()

    async def write(self, piece: str) -> None:
        """Take the next piece of text."""
        self._pending += piece
        if "\n" not in self._pending and len(self._pending) < _LONGEST_LINE:
            return
        if time.monotonic() - self._written_at >= _WRITE_EVERY_S:
            whole, newline, rest = self._pending.rpartition("\n")
            await self._flush(whole if newline else rest)
            self._pending = rest if newline else ""

    async def close(self) -> None:
        """Write what is left."""
        if self._pending:
            await self._flush(self._pending)
            self._pending = ""

    async def _flush(self, text: str) -> None:
        self._written_at = time.monotonic()
        lines = [line[:_LONGEST_LINE] for line in text.split("\n")]
        await self._log(*lines)
