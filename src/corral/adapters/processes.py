"""Starts other programs so that none of them, and none of their children, outlives whoever started it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any


async def start_group(
    *command: str | os.PathLike[str],
    end: Callable[[asyncio.subprocess.Process], None] | None = None,
    **options: Any,
) -> asyncio.subprocess.Process:
    """Start a program as the leader of a session and process group of its own, or have none.

    Cancelled while a process starts, asyncio ends that process but not what it has started by then. Here it is let
    start, and then the whole group is ended.

    Args:
        command: Program and arguments.
        end: Ends what a cancelled start has left running; None kills the group.
        options: As of ``asyncio.create_subprocess_exec``.

    Raises:
        OSError: It can't be started.
        asyncio.CancelledError: The caller was cancelled; nothing of it runs.
    """
    starting = asyncio.ensure_future(asyncio.create_subprocess_exec(*command, start_new_session=True, **options))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        while not starting.done():
            with contextlib.suppress(asyncio.CancelledError):  # cancelled once more, it is to end all the same
                await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            await end_group(starting.result(), end=end)
        raise


async def end_group(
    process: asyncio.subprocess.Process, *, end: Callable[[asyncio.subprocess.Process], None] | None = None
) -> None:
    """Kill the process and its group when they still run, and collect it."""
    if process.returncode is None:
        (end or _kill_group)(process)
        await asyncio.shield(process.wait())
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


def _kill_group(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
