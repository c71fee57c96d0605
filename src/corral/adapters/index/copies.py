"""Copies of indexes on this machine: when there is no room, the least recently used that nobody has open go.

Any number of processes may share the folder. A reader holds a lock on its index's ``USED`` file (shared), whose time
says when it was last opened or closed; whoever fetches or publishes holds ``LOCK``. Who makes room takes both before it
deletes, without waiting, and leaves what it can't have. Whoever gets a lock then looks whether its file is still there.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Final

from corral.adapters.index.local_lock import lock_index
from corral.adapters.index.local_reader import LocalIndexReader
from corral.errors import SearchFailed

_log = logging.getLogger(__name__)

_TRIM: Final = ".trim"
"""Held by who makes room; no project's folder begins with a dot."""


class CopyReader(LocalIndexReader):
    """A reader whose copy stays as long as it is open."""

    def __init__(self, folder: Path, used: IO[bytes]) -> None:
        super().__init__(folder)
        self._used = used

    def close(self) -> None:
        """Let go of files, memory and the copy."""
        super().close()
        if not self._used.closed:
            _touch(self._used)
            self._used.close()


@dataclass(frozen=True, slots=True)
class CopiesUse:
    """How much the copies take.

    Attributes:
        indexes: How many there are.
        used_bytes: On the disk; what several branches share counts once.
        limit_bytes: The bound.
    """

    indexes: int
    used_bytes: int
    limit_bytes: int


class Copies:
    """The copies below one folder.

    Args:
        root: ``<root>/<project>/<branch>/``, as in ``local_layout``.
        limit_bytes: Most that they may take together; more is kept only of what is in use.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self._root = root
        self._limit = limit_bytes
        self._grown = 0

    def hold(self, folder: Path, *, make: bool = False) -> IO[bytes] | None:
        """Keep an index from being deleted for want of room until the file is closed.

        Args:
            folder: Of the index.
            make: Also when there is none yet, so that it stays from the moment on in which it is there.

        Returns:
            None when there is none.
        """
        while True:
            try:
                if make:
                    folder.mkdir(parents=True, exist_ok=True)
                used = (folder / "USED").open("ab")
            except FileNotFoundError:
                if make:
                    continue  # deleted between the two
                return None
            fcntl.flock(used, fcntl.LOCK_SH)  # who deletes lets go soon
            if _is_there(folder / "USED", used):
                _touch(used)
                return used
            used.close()

    def forget(self, folder: Path) -> None:
        """Delete what is left of an index of which there is no copy any more, if nobody is at work on it."""
        if folder.is_dir() and not (folder / "CURRENT").exists():
            _delete(folder, published=False)

    def grown(self, more_bytes: int, *, new: bool) -> None:
        """Make room, if it can be needed: an index is new here, or enough has come since the last look.

        Args:
            more_bytes: Fetched or published now.
            new: Whether it is the first copy of its index.
        """
        self._grown += more_bytes
        if new or self._grown >= self._limit // 50:
            self._grown = 0
            self.trim()

    def use(self) -> CopiesUse:
        """What there is."""
        indexes = self._indexes()
        sizes, _ = _measured(indexes)
        return CopiesUse(len(indexes), sum(sizes.values()), self._limit)

    def trim(self) -> None:
        """Delete indexes until the rest is within the limit."""
        self._root.mkdir(parents=True, exist_ok=True)
        with (self._root / _TRIM).open("ab") as trimming:
            try:
                fcntl.flock(trimming, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return  # another process is at it
            indexes = self._indexes()
            sizes, holders = _measured(indexes)
            shared = Counter(file for files in holders.values() for file in files)
            used = sum(sizes.values())
            for folder in indexes:
                if used <= self._limit:
                    return
                if not _delete(folder, published=True):
                    continue
                _log.info("the copy of the index in %s is deleted to make room", folder)
                for file in holders[folder]:
                    shared[file] -= 1
                    used -= 0 if shared[file] else sizes[file]
            if used > self._limit:
                _log.warning(
                    "copies of indexes take %d bytes of CORRAL_INDEX_COPIES_MB's %d, and all are in use",
                    used,
                    self._limit,
                )

    def _indexes(self) -> list[Path]:
        """Least recently used first."""
        return sorted((path for path in self._root.glob("[!.]*/*") if path.is_dir()), key=_last_used)


def _last_used(folder: Path) -> int:
    """Nanoseconds: when it was last opened or closed, fetched or published."""
    times = [0]
    for name in ("USED", "CURRENT"):
        with contextlib.suppress(OSError):
            times.append((folder / name).stat().st_mtime_ns)
    return max(times)


def _touch(used: IO[bytes]) -> None:
    os.utime(used.fileno())


def _measured(indexes: list[Path]) -> tuple[dict[int, int], dict[Path, set[int]]]:
    """Size of every file by its number, and the files of each index; several indexes may have one file."""
    sizes: dict[int, int] = {}
    holders: dict[Path, set[int]] = {}
    for folder in indexes:
        held = holders[folder] = set()
        for parent, _, names in os.walk(folder):
            for name in names:
                with contextlib.suppress(OSError):  # gone while we looked
                    status = (Path(parent) / name).lstat()
                    sizes[status.st_ino] = status.st_blocks * 512
                    held.add(status.st_ino)
    return sizes, holders


def _is_there(path: Path, file: IO[bytes]) -> bool:
    """Whether this is still the file of that path."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def _delete(folder: Path, *, published: bool) -> bool:
    """Delete an index that nobody reads or writes; whether it was done.

    Args:
        folder: Of the index.
        published: Also when there is a copy.
    """
    try:
        with lock_index(folder, timedelta(0)) as lock, (folder / "USED").open("ab") as used:
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.current() is not None and not published:
                return False
            lock.remove()
    except (OSError, SearchFailed):
        return False  # in use, or gone
    return True
