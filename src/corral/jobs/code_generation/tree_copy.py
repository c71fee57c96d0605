"""A copy of the worktree, for tests to run in: what they write must not get into the commit."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from corral.adapters.cleanup import see_through
from corral.adapters.sandbox.removal import remove_tree


@contextlib.asynccontextmanager
async def copy_of(root: Path) -> AsyncIterator[Path]:
    """A copy of ``root`` that goes away at exit."""
    # Beside the worktree: it goes away with it even when the worker is killed now.
    folder = Path(tempfile.mkdtemp(prefix="tests-", dir=root.parent))
    try:
        # A thread can't be stopped: one that goes on would write into what is being removed.
        await see_through(asyncio.to_thread(shutil.copytree, root, folder / root.name, symlinks=True))
        yield folder / root.name
    finally:
        await see_through(asyncio.to_thread(remove_tree, folder))
