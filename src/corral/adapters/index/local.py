"""The index store on a worker's own disk; ``local_layout`` says what lies where."""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import IO

from corral.adapters.index.local_layout import Manifest, disk_failed, generation_name, safe_name
from corral.adapters.index.local_reader import LocalIndexReader
from corral.adapters.index.local_writer import LocalIndexWriter
from corral.adapters.index.port import IndexName
from corral.errors import SearchFailed

__all__ = ["LocalIndexReader", "LocalIndexStore", "LocalIndexWriter"]

_OPEN_TRIES = 5


class LocalIndexStore:
    """Indexes under one folder of this machine; any number of processes may share it."""

    def __init__(self, root: Path, *, lock_timeout: timedelta = timedelta(minutes=10)) -> None:
        self._root = root
        self._lock_timeout = lock_timeout

    def folder(self, name: IndexName) -> Path:
        """Where an index is kept."""
        return self._root / safe_name(name.project_id) / safe_name(name.branch or "@default")

    def current(self, name: IndexName) -> int | None:
        """Number of the published generation."""
        try:
            with (self.folder(name) / "CURRENT").open("rb") as file:
                return int(file.read(32))
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
        self, name: IndexName, *, identity: str, embedder: str, dimension: int, fresh: bool = False
    ) -> LocalIndexWriter:
        """Begin a generation; see the port."""
        folder = self.folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder / "LOCK", self._lock_timeout)
        except OSError as error:
            raise disk_failed("lock", error) from error
        try:
            base = None if fresh else self._base(name, identity)
            new = max(self.current(name) or 0, _newest(folder)) + 1
            return LocalIndexWriter(
                folder,
                lock=lock,
                generation=new,
                base=base,
                identity=identity,
                embedder=embedder,
                dimension=dimension,
            )
        except BaseException as error:
            lock.close()
            if isinstance(error, OSError | ValueError):
                raise disk_failed("begin", error) from error
            raise

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
            pass
        return None


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
