"""A copy of the worktree, for tests to run in: what they write must not get into the commit."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from corral.adapters.sandbox.removal import remove_tree


@contextlib.asynccontextmanager
async def copy_of(root: Path) -> AsyncIterator[Path]:
    """A copy of ``root`` that goes away at exit."""
    folder = await asyncio.to_thread(_make_copy, root)
    try:
        yield folder / root.name
    finally:
        await asyncio.shield(asyncio.to_thread(remove_tree, folder))


def _make_copy(root: Path) -> Path:
    # Beside the worktree: it goes away with it even when the worker is killed now.
    folder = Path(tempfile.mkdtemp(prefix="tests-", dir=root.parent))
    try:
        shutil.copytree(root, folder / root.name, symlinks=True)
    except BaseException:
        remove_tree(folder)
        raise
    return folder
