"""Being cancelled: what has to be put away is put away all the same, and no cancellation gets lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def see_through(work: Coroutine[Any, Any, T]) -> T:
    """Do it to the end; a cancellation that comes meanwhile is raised afterwards.

    ``asyncio.shield`` alone would let the caller go on, and perhaps close what the work still needs.

    Raises:
        asyncio.CancelledError: The caller was cancelled; the work is done, or has failed.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # cancelled once more, it is to end all the same
                await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what is told
        raise


def heed_cancellation() -> None:
    """Raise a cancellation that something on the way has swallowed.

    ``wait_for`` of Python 3.11, with which redis-py writes, loses one that comes with its answer. The worker has
    recorded it, and nobody may pay for more.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
