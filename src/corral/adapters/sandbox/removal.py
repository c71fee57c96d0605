"""Removes folders that a hostile program has filled."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path


def remove_tree(folder: Path) -> None:
    """Remove a folder, whatever is in it; a missing one is fine. Blocks.

    Never follows a link. Folders without permissions and chains of folders deeper than Python's recursion limit or
    the longest path are removed too: every folder that is met is first moved up into ``folder`` itself. Nothing may
    be writing to it any more.

    Raises:
        OSError: Something could not be removed (a mount point, another user's file).
    """
    try:
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            folder.unlink()
            return
    except FileNotFoundError:
        return
    prefix = f".corral-{secrets.token_hex(8)}-"
    waiting, count = [""], 0
    while waiting:
        name = waiting.pop()
        path = folder / name if name else folder
        path.chmod(0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            with os.scandir(descriptor) as entries:
                names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
            for entry, is_folder in names:
                if not is_folder:
                    os.unlink(entry, dir_fd=descriptor)
                elif name or not entry.startswith(prefix):
                    # A folder can be moved only by who may write to it (its ".." changes).
                    os.chmod(entry, 0o700, dir_fd=descriptor)
                    count += 1
                    os.rename(entry, folder / f"{prefix}{count}", src_dir_fd=descriptor)
                    waiting.append(f"{prefix}{count}")
        finally:
            os.close(descriptor)
        if name:
            path.rmdir()
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()
