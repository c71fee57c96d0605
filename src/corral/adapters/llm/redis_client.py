"""What the cache, the budgets and the checkpoints need of a Redis client: any asyncio redis-py client has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from corral.errors import StoreUnavailable
from corral.wire.faults import translate_error

T = TypeVar("T")

_PATIENCE_S = 60.0
"""Longer than a job's lease lasts without Redis: a worker's handler is cancelled before."""
_PAUSE_FIRST_S = 0.05
_PAUSE_LONGEST_S = 1.0
_CANCEL_AGAIN_S = 0.1


class RedisClient(Protocol):
    """A ready asyncio client, whether or not it decodes replies."""

    def execute_command(self, *args: Any, **options: Any) -> Awaitable[Any]:
        """Send one command."""
        ...

    def pipeline(self, transaction: bool = ...) -> Any:  # noqa: FBT001 - redis-py's own signature
        """Collect commands and send them in one write."""
        ...


def as_text(reply: Any) -> str:
    """A reply as text, whether or not the client decodes."""
    return reply.decode() if isinstance(reply, bytes) else str(reply)


async def insist(send: Callable[[], Awaitable[T]]) -> T:
    """Send it again while Redis is away, for a minute; for what a paid answer would be lost without.

    Args:
        send: May be carried out twice: an answer can be lost after the work was done.

    Raises:
        StoreUnavailable: Redis has been away for that long.
    """
    until = time.monotonic() + _PATIENCE_S
    pause_s = _PAUSE_FIRST_S
    while True:
        try:
            return await send()
        except Exception as error:
            away = translate_error(error)
            if not isinstance(away, StoreUnavailable):
                raise
            if time.monotonic() >= until:
                raise away from error
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_LONGEST_S)


async def end_task(task: asyncio.Task[None]) -> None:
    """Cancel a task that sends commands, and wait until it has ended."""
    # ``wait_for`` of Python 3.11, which redis-py writes with, loses a cancellation that comes with its answer.
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CANCEL_AGAIN_S)
