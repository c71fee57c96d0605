"""The index store on a worker's own disk; ``local_layout`` says what lies where."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import IO

from corral.adapters.index.local_layout import Manifest, disk_failed, generation_name, safe_name
from corral.adapters.index.local_reader import LocalIndexReader
from corral.adapters.index.local_writer import LocalIndexWriter, Sealed, replace_text, sweep
from corral.adapters.index.port import IndexName
from corral.errors import SearchFailed

__all__ = ["LocalIndexReader", "LocalIndexStore", "LocalIndexWriter"]

_OPEN_TRIES = 5
_DEFAULT_BRANCH = "@default"

Fill = Callable[[Path, Path | None], None]
"""Lays a generation into an empty folder, given that and the folder of the generation before, if there is one."""


class LocalIndexStore:
    """Indexes under one folder of this machine; any number of processes may share it."""

    def __init__(self, root: Path, *, lock_timeout: timedelta = timedelta(minutes=10)) -> None:
        self._root = root
        self._lock_timeout = lock_timeout

    def folder(self, name: IndexName) -> Path:
        """Where an index is kept."""
        return self._root / safe_name(name.project_id) / safe_name(name.branch or _DEFAULT_BRANCH)

    def current(self, name: IndexName) -> int | None:
        """Number of the published generation."""
        path = f"{self._root}/{safe_name(name.project_id)}/{safe_name(name.branch or _DEFAULT_BRANCH)}/CURRENT"
        try:
            # Each search asks; with pathlib and a file object it would take ten times as long.
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return int(os.read(file, 32))
            finally:
                os.close(file)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def open(self, name: IndexName) -> LocalIndexReader | None:
        """The published generation; None when there is none."""
        for attempt in range(_OPEN_TRIES):
            generation = self.current(name)
            if generation is None:
                return None
            folder = self.folder(name) / generation_name(generation)
            try:
                return LocalIndexReader(folder)
            except (OSError, ValueError, KeyError, TypeError) as error:
                # A writer may have published twice since CURRENT was read, and swept this generation away.
                if attempt == _OPEN_TRIES - 1 or self.current(name) == generation:
                    raise SearchFailed(
                        f"the index of project {name.project_id!r} can't be read ({error}); index it again",
                        service="index",
                        operation="open",
                        retryable=False,
                        reason="index_unreadable",
                    ) from error
        return None

    def writer(
        self,
        name: IndexName,
        *,
        identity: str,
        embedder: str,
        dimension: int,
        fresh: bool = False,
        above: int = 0,
        sealed: Sealed | None = None,
    ) -> LocalIndexWriter:
        """Begin a generation; see the port.

        Args:
            name: Which index.
            identity: What makes it.
            embedder: The embedder's name.
            dimension: Length of its vectors.
            fresh: Begin empty.
            above: Its number is higher than this one.
            sealed: Told of the whole generation before it is published here; what it raises throws it away.
        """
        folder = self.folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder / "LOCK", self._lock_timeout)
        except OSError as error:
            raise disk_failed("lock", error) from error
        try:
            base = None if fresh else self._base(name, identity)
            new = max(self.current(name) or 0, _newest(folder), above) + 1
            return LocalIndexWriter(
                folder,
                lock=lock,
                generation=new,
                base=base,
                identity=identity,
                embedder=embedder,
                dimension=dimension,
                sealed=sealed,
            )
        except BaseException as error:
            lock.close()
            if isinstance(error, OSError | ValueError):
                raise disk_failed("begin", error) from error
            raise

    def adopt(self, name: IndexName, generation: int, fill: Fill, *, wait: bool = True) -> None:
        """Publish a generation that was made elsewhere.

        Args:
            name: Of which index.
            generation: Its number; it may be lower than what is here.
            fill: Lays it into an empty folder; given that, and the folder of the generation published here, or None.
            wait: For a writer that is at work here.

        Raises:
            SearchFailed: A writer is at work (retryable), or the disk refuses.
        """
        timeout = self._lock_timeout if wait else timedelta(0)
        _adopt(self.folder(name), generation, fill, self.current_folder(name), timeout)

    def adopt_folder(self, project: str, branch: str, generation: int, fill: Fill) -> None:
        """As ``adopt``, of an index whose folder's name is known but not its branch."""
        _adopt(self._root / project / branch, generation, fill, None, self._lock_timeout)

    def current_folder(self, name: IndexName) -> Path | None:
        """Folder of the published generation."""
        generation = self.current(name)
        return None if generation is None else self.folder(name) / generation_name(generation)

    def remove(self, project_id: str) -> None:
        """Forget all indexes of a project."""
        shutil.rmtree(self._root / safe_name(project_id), ignore_errors=True)

    def _base(self, name: IndexName, identity: str) -> Path | None:
        own = self._usable(self.folder(name), identity)
        if own is not None:
            return own
        project = self._root / safe_name(name.project_id)
        siblings = [path for path in project.iterdir() if path != self.folder(name)]
        usable = [path for path in (self._usable(sibling, identity) for sibling in siblings) if path is not None]
        return max(usable, key=lambda path: path.stat().st_mtime, default=None)

    @staticmethod
    def _usable(folder: Path, identity: str) -> Path | None:
        try:
            generation = folder / generation_name(int((folder / "CURRENT").read_text()))
            if Manifest.load(generation).state.identity == identity:
                return generation
        except (OSError, ValueError, KeyError):
            return None  # none yet, or of a layout that this version does not read
        return None


def _adopt(folder: Path, generation: int, fill: Fill, old: Path | None, timeout: timedelta) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / "LOCK", timeout):
            for left in folder.glob("f-*"):  # of a process that was killed here
                shutil.rmtree(left, ignore_errors=True)
            new = folder / f"f-{uuid.uuid4().hex}"
            new.mkdir()
            try:
                fill(new, old)
                target = folder / generation_name(generation)
                if target.exists():  # of that number, but not the same
                    target.rename(folder / f"f-{uuid.uuid4().hex}")
                new.rename(target)
                replace_text(folder / "CURRENT", str(generation))
            finally:
                shutil.rmtree(new, ignore_errors=True)
            sweep(folder, keep={target.name, *([old.name] if old else [])})
    except OSError as error:
        raise disk_failed("adopt", error) from error


def _newest(folder: Path) -> int:
    return max((int(path.name[2:]) for path in folder.glob("g-????????") if path.name[2:].isdecimal()), default=0)


def _lock(path: Path, timeout: timedelta, sleep: Callable[[float], None] = time.sleep) -> IO[bytes]:
    file = path.open("ab")
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                raise SearchFailed(
                    f"another indexing of this project has been running for more than {timeout}",
                    service="index",
                    operation="lock",
                    retryable=True,
                    reason="index_busy",
                ) from None
            sleep(0.02)
        else:
            return file
