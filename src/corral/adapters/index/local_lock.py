"""The lock of an index on this machine's disk, and what may be done in its folder by who holds it.

An index can be removed, and made again by another writer, while somebody who was frozen still believes to hold it. So
what is published is built in a folder whose name nobody else has, and what every generation shares (``CURRENT``, the
generations' names) is touched through the folder that was locked and not through its path: with the index removed,
nothing that a sleeper does when it wakes up reaches the one that is there now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import IO, Final, Self

from corral.adapters.index.local_layout import generation_name
from corral.errors import SearchFailed

_POLL_S: Final = 0.02
_KINDS: Final = ("g-", "w-", "f-")
"""Of the folders in an index: a generation, one that a writer makes, one that is fetched."""


class IndexLock:
    """The one writer's lock of an index; closing it lets go, and so does the end of the process."""

    def __init__(self, folder: Path, file: IO[bytes], place: int) -> None:
        self.folder = folder
        self._file = file
        self._place = place

    @property
    def lost(self) -> bool:
        """Whether the index was removed since, with this lock."""
        try:
            return not os.path.samestat((self.folder / "LOCK").stat(), os.fstat(self._file.fileno()))
        except OSError:
            return True

    def current(self) -> int | None:
        """Number of the published generation."""
        try:
            file = os.open("CURRENT", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._place)
        except OSError:
            return None
        try:
            return int(os.read(file, 32))
        except ValueError:
            return None
        finally:
            os.close(file)

    def newest(self) -> int:
        """The highest number of a generation that lies here; 0 when there is none."""
        numbers = (name[2:] for name in self._names() if name.startswith("g-"))
        return max((int(number) for number in numbers if number.isdecimal()), default=0)

    def publish(self, made: str, generation: int) -> None:
        """Make a folder in here the published generation, and delete all others but the one before.

        Raises:
            OSError: The disk refuses, or the index was removed.
        """
        name, old = generation_name(generation), self.current()
        if old == generation:  # not the same, though: its store has lost its numbers
            self._unlink("CURRENT")
            old = None
        shutil.rmtree(name, ignore_errors=True, dir_fd=self._place)  # of a writer killed before it replaced CURRENT
        os.rename(made, name, src_dir_fd=self._place, dst_dir_fd=self._place)
        self.write("CURRENT", str(generation))
        self.sweep(keep={name} | ({generation_name(old)} if old is not None else set()))

    def clear(self) -> None:
        """Delete what is published here, and whatever else lies here."""
        self._unlink("CURRENT")
        self.sweep(keep=set())

    def remove(self) -> None:
        """Delete the index, ``CURRENT`` first: nobody opens what is half gone."""
        self.clear()
        for name in self._names():
            self._unlink(name)
        with contextlib.suppress(OSError):  # who waited for this lock has made a new one here
            self.folder.rmdir()
        with contextlib.suppress(OSError):  # other branches are there
            self.folder.parent.rmdir()

    def sweep(self, *, keep: set[str]) -> None:
        """Delete generations that nobody will open again, and what killed writers left."""
        for name in self._names():
            if name.startswith(_KINDS) and name not in keep:
                shutil.rmtree(name, ignore_errors=True, dir_fd=self._place)

    def write(self, name: str, text: str) -> None:
        """Replace a small file in one step."""
        new = f"{name}.new"
        with open(new, "w", encoding="utf-8", opener=self._opened) as file:
            file.write(text)
        os.replace(new, name, src_dir_fd=self._place, dst_dir_fd=self._place)

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        try:
            os.stat(name, dir_fd=self._place)
        except FileNotFoundError:
            return False
        return True

    def _names(self) -> list[str]:
        return os.listdir(self._place)  # noqa: PTH208 - of an open folder

    def _opened(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC, 0o666, dir_fd=self._place)

    def _unlink(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=self._place)

    def close(self) -> None:
        """Let go."""
        if not self._file.closed:
            self._file.close()
            os.close(self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def lock_index(folder: Path, timeout: timedelta, sleep: Callable[[float], None] = time.sleep) -> IndexLock:
    """Take the lock of an index, whose folder is made.

    Raises:
        SearchFailed: Another one has held it all the time (retryable).
        OSError: The disk refuses.
    """
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        lock = _tried(folder)
        if isinstance(lock, IndexLock):
            return lock
        if lock is None:
            continue  # the index was removed meanwhile, and with it the file that others lock
        if time.monotonic() >= deadline:
            raise SearchFailed(
                f"another indexing of this project has been running for more than {timeout}",
                service="index",
                operation="lock",
                retryable=True,
                reason="index_busy",
            )
        sleep(_POLL_S)


def _tried(folder: Path) -> IndexLock | bool | None:
    """The lock; False when another one has it, None when its file is gone."""
    with contextlib.ExitStack() as undo:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, place)
            file = open(  # noqa: SIM115 - open for as long as the lock is held
                "LOCK", "ab", opener=lambda name, flags: os.open(name, flags | os.O_CLOEXEC, 0o666, dir_fd=place)
            )
        except FileNotFoundError:
            return None
        undo.callback(file.close)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        lock = IndexLock(folder, file, place)
        if lock.lost:
            return None
        undo.pop_all()
        return lock
