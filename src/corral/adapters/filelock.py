"""Locks between processes that end with their holder, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from corral.errors import GitFailed


def try_lock(path: Path) -> int | None:
    """Take a lock at once.

    Returns:
        A file descriptor; closing it gives the lock back, and so does the process's end. None when another holds it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever removed the file while we waited made our lock worthless: the next one locks a new file.
        if os.fstat(fd).st_nlink == 0:
            os.close(fd)
            return None
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


@contextlib.asynccontextmanager
async def locked(path: Path, *, timeout: timedelta) -> AsyncIterator[int]:
    """Hold a lock while the block runs.

    Args:
        path: The lock's file; made when missing.
        timeout: Longest wait.

    Raises:
        GitFailed: ``locked``, retryable: another process held it all that time.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout.total_seconds()
    pause = 0.005
    while (fd := try_lock(path)) is None:
        if loop.time() >= end:
            raise GitFailed(
                f"another process held {path.name} for {timeout.total_seconds():g} s",
                service="git",
                operation="lock",
                retryable=True,
                reason="locked",
            )
        await asyncio.sleep(pause)
        pause = min(0.1, pause * 1.5)
    try:
        yield fd
    finally:
        os.close(fd)
