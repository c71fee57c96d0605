"""The index store on a worker's own disk; ``local_layout`` says what lies where."""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import IO

from corral.adapters.index.local_layout import (
    DEFAULT_BRANCH,
    Manifest,
    branch_folder,
    disk_failed,
    generation_name,
    remove_index,
    safe_name,
)
from corral.adapters.index.local_reader import LocalIndexReader
from corral.adapters.index.local_writer import LocalIndexWriter, Sealed, replace_text, sweep
from corral.adapters.index.port import IndexName
from corral.errors import SearchFailed

__all__ = ["LocalIndexReader", "LocalIndexStore", "LocalIndexWriter"]

_log = logging.getLogger(__name__)

_OPEN_TRIES = 5

Fill = Callable[[Path, Path | None], None]
"""Lays a generation into an empty folder, given that and the folder of the generation before, if there is one."""


class LocalIndexStore:
    """Indexes under one folder of this machine; any number of processes may share it."""

    def __init__(self, root: Path, *, lock_timeout: timedelta = timedelta(minutes=10)) -> None:
        self._root = root
        self._lock_timeout = lock_timeout

    def folder(self, name: IndexName) -> Path:
        """Where an index is kept."""
        return self._root / safe_name(name.project_id) / branch_folder(name.branch)

    def current(self, name: IndexName) -> int | None:
        """Number of the published generation."""
        path = f"{self._root}/{safe_name(name.project_id)}/{branch_folder(name.branch)}/CURRENT"
        try:
            # Each search asks; with pathlib and a file object it would take ten times as long.
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                return int(os.read(file, 32))
            finally:
                os.close(file)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def open(
        self, name: IndexName, make: Callable[[Path], LocalIndexReader] = LocalIndexReader
    ) -> LocalIndexReader | None:
        """The published generation, by ``make`` of its folder; None when there is none."""
        for attempt in range(_OPEN_TRIES):
            generation = self.current(name)
            if generation is None:
                return None
            folder = self.folder(name) / generation_name(generation)
            try:
                return make(folder)
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
            lock = _lock(folder, self._lock_timeout)
        except OSError as error:
            raise disk_failed("lock", error) from error
        try:
            _write_name(folder, name)
            base = None if fresh else self._base(name, identity)
            new = max(self.current(name) or 0, _newest(folder), above) + 1
            begin = functools.partial(
                LocalIndexWriter,
                folder,
                lock=lock,
                generation=new,
                identity=identity,
                embedder=embedder,
                dimension=dimension,
                sealed=sealed,
            )
            try:
                return begin(base=base)
            except (OSError, ValueError, KeyError, TypeError) as error:
                if base is None:
                    raise
                # Cut by a loss of power, damaged, or another branch's that has just gone: an index is a cache.
                _log.warning("the index in %s can't be built upon (%s): it is made anew", base, error)
                return begin(base=None)
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
        folder, old = self.folder(name), self.current_folder(name)
        try:
            with _lock(folder, timeout):
                _write_name(folder, name)
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

    def current_folder(self, name: IndexName) -> Path | None:
        """Folder of the published generation."""
        generation = self.current(name)
        return None if generation is None else self.folder(name) / generation_name(generation)

    def branches(self, project_id: str) -> list[str]:
        """Branches of a project that have an index."""
        return sorted(_name_of(path.parent) for path in (self._root / safe_name(project_id)).glob("*/CURRENT"))

    def remove(self, project_id: str, branch: str | None = None) -> None:
        """Forget the index of a branch, or all of a project; what is being written then has nowhere to go."""
        project = self._root / safe_name(project_id)
        if branch is None:
            for folder in project.glob("*"):
                remove_index(folder)
            shutil.rmtree(project, ignore_errors=True)
        elif (folder := self.folder(IndexName(project_id, branch))).is_dir():
            with _lock(folder, timedelta(0)):
                remove_index(folder)

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


def _write_name(folder: Path, name: IndexName) -> None:
    if not (folder / "NAME").exists():
        replace_text(folder / "NAME", name.branch)


def _name_of(folder: Path) -> str:
    try:
        return (folder / "NAME").read_text()
    except OSError:  # made by an earlier version: a name that needed no replacing is its folder's
        return "" if folder.name == DEFAULT_BRANCH else folder.name


def _newest(folder: Path) -> int:
    return max((int(path.name[2:]) for path in folder.glob("g-????????") if path.name[2:].isdecimal()), default=0)


def _lock(folder: Path, timeout: timedelta, sleep: Callable[[float], None] = time.sleep) -> IO[bytes]:
    """Take the writer's lock of an index, whose folder is made; closing the file lets go."""
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = (folder / "LOCK").open("ab")
        except FileNotFoundError:
            continue  # the index was removed between the two
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            if time.monotonic() >= deadline:
                raise SearchFailed(
                    f"another indexing of this project has been running for more than {timeout}",
                    service="index",
                    operation="lock",
                    retryable=True,
                    reason="index_busy",
                ) from None
            sleep(0.02)
        else:
            if os.fstat(file.fileno()).st_nlink:
                return file
            file.close()  # the index was removed meanwhile, and with it the file that others lock
