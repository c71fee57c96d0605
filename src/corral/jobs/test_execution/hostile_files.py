"""Reads files that an untrusted program wrote: never through a link, never a pipe or device, never without a bound."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from corral.errors import CorralError

_SKIPPED_FOLDERS = frozenset({".git", "node_modules", ".venv", "venv", "__pycache__", ".tox", ".nox", "site-packages"})
_MOST_ENTRIES = 100_000


class UnsafeFileError(CorralError):
    """The file is no regular file, or is reached through a link, or is too large."""


def open_regular(root: Path, path: str) -> int:
    """Open ``root/path`` for reading; returns its descriptor.

    Every folder on the way is opened by itself and none may be a link, so nothing outside of ``root`` is ever opened,
    even while the program still runs.

    Raises:
        UnsafeFileError: It is something else than a regular file, or a link is on the way.
        OSError: It can't be opened.
    """
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts:
        raise UnsafeFileError(f"expected a path inside of the folder, got {path!r}")
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            os.close(folder)
            folder = inner
        # Non-blocking, or opening a named pipe would wait for its other end.
        descriptor = os.open(
            parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY, dir_fd=folder
        )
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UnsafeFileError(f"expected a regular file: {path!r}")
    return descriptor


def read_bounded(root: Path, path: str, *, most_bytes: int) -> bytes:
    """Read all of ``root/path``.

    Raises:
        UnsafeFileError: As ``open_regular``; or it is larger than ``most_bytes``.
        OSError: It can't be read.
    """
    descriptor = open_regular(root, path)
    with os.fdopen(descriptor, "rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise UnsafeFileError(f"expected at most {most_bytes} bytes: {path!r}")
    return content


def written_files(root: Path, *, since: float) -> Iterator[tuple[str, os.stat_result]]:
    """Find regular files below ``root`` that were changed at ``since`` (seconds of the epoch) or later.

    Folders of dependencies are left out, and so is everything after the first hundred thousand entries.

    Yields:
        The path from ``root``, with forward slashes, and its status.
    """
    for path, entry in regular_files(root, skipped=_SKIPPED_FOLDERS):
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue  # removed meanwhile
        if status.st_ctime >= since:
            yield path, status


def regular_files(root: Path, *, skipped: Collection[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Find regular files below ``root``, through no link, and of the first hundred thousand entries only.

    Args:
        root: Where.
        skipped: Names of folders that are not looked into.

    Yields:
        The path from ``root``, with forward slashes, and its entry.
    """
    waiting, seen = [""], 0
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    seen += 1
                    if seen > _MOST_ENTRIES:
                        return
                    path = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name not in skipped:
                            waiting.append(path)
                    elif entry.is_file(follow_symlinks=False):
                        yield path, entry
        except OSError:
            continue
