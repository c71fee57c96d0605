"""Follows one process tree: reads its output, and ends it when it passes a bound."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

from corral.adapters.sandbox.port import OutputSink, RunEnding

_CHUNK_BYTES = 64 * 1024
_DRAIN_S = 1.0

_SIGNAL_BASE = 128
Watch = Callable[["Supervision"], Awaitable[None]]
"""Looks at bounds again and again, and calls ``Supervision.stop`` when one is passed."""


class Supervision:
    """The state of one followed run; the first reason to stop it is the one that counts."""

    def __init__(self, *, timeout: timedelta, output_bytes: int, kill: Callable[[], None], sink: OutputSink) -> None:
        """Prepare.

        Args:
            timeout: Longest run.
            output_bytes: Most output; what is beyond it never reaches ``sink``.
            kill: Ends the whole tree at once; called at most a few times, must not block.
            sink: Gets the output.
        """
        self._timeout = timeout
        self._output_limit = output_bytes
        self._kill = kill
        self._sink = sink
        self.started = time.monotonic()
        self.output_bytes = 0
        self.ending: RunEnding | None = None
        self.detail = ""
        #: Which bound has been passed now, if any; asked when the time is up. A crowd that leaves its watcher no
        #: processor time is the reason then, not the time.
        self.last_look: Callable[[], tuple[RunEnding, str] | None] = _nothing_to_see

    @property
    def seconds(self) -> float:
        """How long the run has taken so far."""
        return time.monotonic() - self.started

    def stop(self, ending: RunEnding, detail: str) -> None:
        """End the tree for a reason; a later reason does not replace an earlier one."""
        if self.ending is None:
            self.ending, self.detail = ending, detail
        self._kill()

    def _time_is_up(self) -> None:
        passed = None
        with contextlib.suppress(OSError):  # as when the machine has no process or file left: then it's the time
            passed = self.last_look()
        self.stop(*(passed or (RunEnding.TIMEOUT, f"ran longer than {self._timeout.total_seconds():g} s")))

    async def _read(self, output: asyncio.StreamReader) -> None:
        while chunk := await output.read(_CHUNK_BYTES):
            room = self._output_limit - self.output_bytes
            if room > 0:
                self._sink(chunk[:room])
            self.output_bytes += len(chunk)
            if self.output_bytes > self._output_limit:
                self.stop(RunEnding.OUTPUT_LIMIT, f"printed more than {self._output_limit} bytes")

    async def follow(
        self, process: asyncio.subprocess.Process, output: asyncio.StreamReader, *, watch: Watch | None = None
    ) -> None:
        """Wait until ``process`` has ended and its output is read.

        Raises:
            asyncio.CancelledError: The caller was cancelled; the tree is dead.
        """
        loop = asyncio.get_running_loop()
        timer = loop.call_later(max(0.0, self._timeout.total_seconds() - self.seconds), self._time_is_up)
        reader = asyncio.create_task(self._read(output))
        watcher = asyncio.ensure_future(watch(self)) if watch else None
        exited = asyncio.ensure_future(process.wait())
        try:
            while not exited.done():
                waiting: set[asyncio.Future[object]] = {exited}  # type: ignore[arg-type]  # sets are invariant
                if watcher is not None:
                    waiting.add(watcher)  # type: ignore[arg-type]  # sets are invariant
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if watcher is not None and watcher.done():
                    finished, watcher = watcher, None
                    finished.result()  # a watcher that can't watch leaves the run unbounded: that is an error
            timer.cancel()
            # Whoever still holds the pipe outlived the tree's root; where that is possible its owner kills it.
            await asyncio.wait({reader}, timeout=_DRAIN_S)
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                self.stop(RunEnding.CANCELLED, "cancelled")
            self._kill()
            await _settled(exited)
            raise
        finally:
            timer.cancel()
            for task in (reader, watcher):
                if task is not None and not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task


def _nothing_to_see() -> None:
    """Where nobody watches."""


async def _settled(future: asyncio.Future[int]) -> None:
    """Wait for ``future`` even when the waiting task is cancelled again meanwhile."""
    while not future.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(future)


def signal_said(code: int | None) -> int | None:
    """Return the signal that an exit code stands for, as shells, ``bwrap`` and engines say it; None for any other.

    A program that exits with such a number by itself looks the same.
    """
    number = (code or 0) - _SIGNAL_BASE
    return number if number > 0 and number in signal.valid_signals() else None


class Descriptor:
    """A file descriptor that is closed once: a second close of its number would hit whatever has it by then."""

    def __init__(self, number: int) -> None:
        """Own ``number``."""
        self.number = number
        self._open = True

    def close(self) -> None:
        """Close it, unless that was done."""
        if self._open:
            self._open = False
            os.close(self.number)


@contextlib.asynccontextmanager
async def open_pipe() -> AsyncIterator[tuple[asyncio.StreamReader, Descriptor]]:
    """Make a pipe: a reader here, and the descriptor of its other end, to be given to a child and closed.

    asyncio's own pipes are not used because its ``Process.wait`` waits for their end too, which a daemon that keeps
    one open would hold up for ever.
    """
    read_end, write_number = os.pipe()
    write_end = Descriptor(write_number)
    os.set_blocking(read_end, False)
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", buffering=0)
    )
    try:
        yield reader, write_end
    finally:
        transport.close()
        write_end.close()
