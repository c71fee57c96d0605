"""A copy of the worktree, for tests to run in: what they write must not get into the commit."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path


@contextlib.asynccontextmanager
async def copy_of(root: Path) -> AsyncIterator[Path]:
    """A copy of ``root`` that goes away at exit."""
    folder = await asyncio.to_thread(_make_copy, root)
    try:
        yield folder / root.name
    finally:
        await asyncio.shield(asyncio.to_thread(_remove_tree, folder))


def _make_copy(root: Path) -> Path:
    # Beside the worktree: it goes away with it even when the worker is killed now.
    folder = Path(tempfile.mkdtemp(prefix="tests-", dir=root.parent))
    try:
        shutil.copytree(root, folder / root.name, symlinks=True)
    except BaseException:
        _remove_tree(folder)
        raise
    return folder


def _remove_tree(folder: Path) -> None:
    """Remove a folder, whatever modes the tests have left in it."""

    def open_up(function: Callable[[str], object], path: str, _: object) -> None:
        with contextlib.suppress(OSError):
            Path(path).parent.chmod(0o700)
            if not Path(path).is_symlink():
                Path(path).chmod(0o700)
            function(path)

    shutil.rmtree(folder, onerror=open_up)
