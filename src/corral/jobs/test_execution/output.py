"""A program's output on its way to people: cut into lines, made harmless, batched, and bounded."""

from __future__ import annotations

import asyncio
import codecs
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

R = TypeVar("R")

LogLines = Callable[[list[str]], Awaitable[None]]
"""Takes some lines of output, in order."""

_LINE_CHARACTERS = 2000
_BATCH_LINES = 500
_PERIOD_S = 0.4
#: Most lines and characters of one run that go to the log; the report keeps the tail all the same.
_LOGGED_LINES = 10_000
_LOGGED_CHARACTERS = 2_000_000
_TAIL_CHARACTERS = 32_000
#: Terminal control sequences (ECMA-48: CSI, OSC, and two-character ones), which could rewrite what a reader sees.
_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_OTHER_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def harmless(text: str) -> str:
    """Remove what would act on a terminal or a page: control sequences, control and direction characters."""
    return _OTHER_CONTROL.sub("", _CONTROL.sub("", text))


class OutputLog:
    """Collects output; ``pump`` hands it on in batches for as long as the program runs."""

    def __init__(self, on_lines: LogLines | None) -> None:
        """Hand lines to ``on_lines``; None only keeps the tail."""
        self._on_lines = on_lines
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = ""
        self._waiting: list[str] = []
        self._lines_left = _LOGGED_LINES
        self._characters_left = _LOGGED_CHARACTERS
        self._tail = ""

    def write(self, chunk: bytes) -> None:
        """Take a piece of output."""
        self._take(self._decoder.decode(chunk))

    def _take(self, text: str) -> None:
        self._tail = (self._tail + text)[-_TAIL_CHARACTERS * 2 :]
        lines = (self._partial + text).split("\n")
        self._partial = lines.pop()[-_LINE_CHARACTERS * 4 :]
        if self._lines_left > 0:
            for line in lines:
                self._log(line)

    def note(self, line: str) -> None:
        """Add a line of Corral's own."""
        self._waiting.append(line)

    def _log(self, line: str) -> None:
        # A carriage return begins the line anew, as progress bars do.
        line = harmless(line.rstrip("\r").rpartition("\r")[2])
        if len(line) > _LINE_CHARACTERS:
            line = f"{line[:_LINE_CHARACTERS]} [{len(line) - _LINE_CHARACTERS} more characters]"
        self._lines_left -= 1
        self._characters_left -= len(line)
        if self._lines_left < 0:
            return
        if self._lines_left == 0 or self._characters_left <= 0:
            self._lines_left = 0
            line = "[more output, not logged]"
        self._waiting.append(line)

    def tail(self) -> str:
        """Return the last part of the output."""
        text = "\n".join(harmless(line.rstrip("\r").rpartition("\r")[2]) for line in self._tail.split("\n"))
        return text[-_TAIL_CHARACTERS:]

    async def flush(self) -> None:
        """Hand on what waits."""
        while self._waiting:
            batch, self._waiting = self._waiting[:_BATCH_LINES], self._waiting[_BATCH_LINES:]
            if self._on_lines is not None:
                await self._on_lines(batch)

    async def finish(self) -> None:
        """Hand on the rest, an unfinished last line too."""
        self._take(self._decoder.decode(b"", final=True))
        if self._partial:
            self._log(self._partial)
            self._partial = ""
        await self.flush()

    async def pump(self, also: Callable[[], Awaitable[None]]) -> None:
        """Hand on output, and call ``also``, a few times a second until cancelled."""
        while True:
            await asyncio.sleep(_PERIOD_S)
            await self.flush()
            await also()


async def beside(pump: Coroutine[Any, Any, None], main: Coroutine[Any, Any, R]) -> R:
    """Run ``main`` with ``pump`` beside it, which ends with it; an error of ``pump`` cancels ``main``.

    Raises:
        Exception: What either raised.
        asyncio.CancelledError: The caller was cancelled; both have ended.
    """
    main_task, pump_task = asyncio.ensure_future(main), asyncio.ensure_future(pump)
    try:
        await asyncio.wait({main_task, pump_task}, return_when=asyncio.FIRST_COMPLETED)
        if not main_task.done():
            pump_task.result()
        return await main_task
    finally:
        for task in (main_task, pump_task):
            task.cancel()
        await asyncio.gather(main_task, pump_task, return_exceptions=True)
