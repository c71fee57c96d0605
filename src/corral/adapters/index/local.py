"""The index store on a worker's own disk; ``local_layout`` says what lies where."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Final

from corral.adapters.index.local_layout import (
    DEFAULT_BRANCH,
    Manifest,
    branch_folder,
    disk_failed,
    generation_name,
    removed_meanwhile,
    safe_name,
)
from corral.adapters.index.local_lock import IndexLock, lock_index
from corral.adapters.index.local_reader import LocalIndexReader
from corral.adapters.index.local_writer import LocalIndexWriter, Sealed
from corral.adapters.index.port import IndexName
from corral.errors import SearchFailed

__all__ = ["LocalIndexReader", "LocalIndexStore", "LocalIndexWriter"]

_log = logging.getLogger(__name__)

_OPEN_TRIES = 5
_REMOVED: Final = ".removed"
"""The highest number of a generation of an index that was removed."""
_GONE: Final = ".gone-"
"""A project that is being deleted."""

Fill = Callable[[Path, Path | None], None]
"""Lays a generation into an empty folder, given that and the folder of the generation before, if there is one."""


class DamagedBase(Exception):
    """What an index has published here can't be built upon."""


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
            begun = _number(folder)
            try:
                return make(folder)
            except (OSError, ValueError, KeyError, TypeError) as error:
                # A writer may have published twice since CURRENT was read, and swept this generation away.
                is_the_same = begun is not None and begun == _number(folder) and generation == self.current(name)
                if is_the_same or attempt == _OPEN_TRIES - 1:
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
        lock = self.lock(name)
        try:
            return self.begin(lock, identity=identity, embedder=embedder, dimension=dimension, fresh=fresh)
        except BaseException:
            lock.close()
            raise

    def lock(self, name: IndexName, *, wait: bool = True) -> IndexLock:
        """Take the lock of an index, to write or to bring a generation that was made elsewhere.

        Args:
            name: Which index; its folder is made.
            wait: For who has it, as long as the store's time-out.

        Raises:
            SearchFailed: Another one has it (retryable), or the disk refuses.
        """
        while True:
            try:
                lock = lock_index(self.folder(name), self._lock_timeout if wait else timedelta(0))
            except OSError as error:
                raise disk_failed("lock", error) from error
            try:
                if not lock.has("NAME"):
                    lock.write("NAME", name.branch)
            except OSError as error:
                removed = lock.lost
                lock.close()
                if not removed:
                    raise disk_failed("lock", error) from error
                continue
            except BaseException:
                lock.close()
                raise
            return lock

    def begin(
        self,
        lock: IndexLock,
        *,
        identity: str,
        embedder: str,
        dimension: int,
        fresh: bool = False,
        above: int = 0,
        sealed: Sealed | None = None,
        whole: bool = False,
    ) -> LocalIndexWriter:
        """Begin a generation under a lock, which the writer lets go in the end; on an error it is still the caller's.

        Args:
            lock: Of the index.
            identity: What makes it.
            embedder: The embedder's name.
            dimension: Length of its vectors.
            fresh: Begin empty.
            above: Its number is higher than this one.
            sealed: Told of the whole generation before it is published here; what it raises throws it away.
            whole: Refuse to begin on another base, or on none, where the index's own generation can't be read.

        Raises:
            DamagedBase: It can't.
            SearchFailed: The disk refuses.
        """
        begin = functools.partial(
            LocalIndexWriter,
            lock=lock,
            generation=max(lock.current() or 0, lock.newest(), above, self._last_removed()) + 1,
            identity=identity,
            embedder=embedder,
            dimension=dimension,
            sealed=sealed,
        )
        try:
            tried: set[Path] = set()
            while not fresh and (base := self._base(lock, identity, but=tried, whole=whole)) is not None:
                try:
                    return begin(base=base)
                except (OSError, ValueError, KeyError, TypeError) as error:
                    if whole and base.parent == lock.folder:
                        raise DamagedBase(str(error)) from error
                    # Cut by a loss of power, damaged, or another branch's that has just gone: an index is a cache.
                    _log.warning("the index in %s can't be built upon (%s)", base, error)
                    tried.add(base)
            return begin(base=None)
        except (OSError, ValueError) as error:
            raise removed_meanwhile("begin") if lock.lost else disk_failed("begin", error) from error

    def adopt(self, lock: IndexLock, generation: int, fill: Fill) -> None:
        """Publish a generation that was made elsewhere.

        Args:
            lock: Of the index; it stays the caller's.
            generation: Its number; it may be lower than what is here.
            fill: Lays it into an empty folder; given that, and the folder of the generation published here, or None.

        Raises:
            SearchFailed: The index was removed meanwhile (retryable), or the disk refuses.
        """
        current = lock.current()
        old = None if current is None else lock.folder / generation_name(current)
        new = lock.folder / f"f-{uuid.uuid4().hex}"
        try:
            lock.sweep(keep={old.name} if old else set())
            new.mkdir()
            fill(new, old)
            lock.publish(new.name, generation)
        except OSError as error:
            raise removed_meanwhile("adopt") if lock.lost else disk_failed("adopt", error) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def is_whole(self, lock: IndexLock) -> bool:
        """Whether what is published here can be read."""
        generation = lock.current()
        if generation is None:
            return False
        try:
            LocalIndexReader(lock.folder / generation_name(generation)).close()
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return True

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
            self._remove_all(project)
        elif (folder := self.folder(IndexName(project_id, branch))).is_dir():
            with lock_index(folder, timedelta(0)) as lock:
                self._remember(max(lock.current() or 0, lock.newest()))
                lock.remove()

    def _remove_all(self, project: Path) -> None:
        """In one step, whoever is writing: what they do from then on is done where nobody looks."""
        numbers = [int(path.name[2:]) for path in project.glob("*/g-*") if path.name[2:].isdecimal()]
        self._remember(max(numbers, default=-1) + 1)  # a writer may be about to publish the next one
        for left in self._root.glob(f"{_GONE}*"):  # by who was killed here
            shutil.rmtree(left, ignore_errors=True)
        gone = self._root / f"{_GONE}{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):
            project.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)
            shutil.rmtree(gone, ignore_errors=True)  # a writer may have published while it was deleted

    def _remember(self, number: int) -> None:
        """Keep the highest number of the removed, so that who has a removed index open never takes a new one for it."""
        if number <= 0:
            return
        self._root.mkdir(parents=True, exist_ok=True)
        file = os.open(self._root / _REMOVED, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if number > self._last_removed():
                os.pwrite(file, b"%020d" % number, 0)
        finally:
            os.close(file)

    def _last_removed(self) -> int:
        try:
            return int((self._root / _REMOVED).read_bytes())
        except (OSError, ValueError):
            return 0

    @staticmethod
    def _base(lock: IndexLock, identity: str, *, but: set[Path], whole: bool) -> Path | None:
        """What a generation may begin as: the index's own one, else the newest of its siblings'."""
        current = lock.current()
        if current is not None:
            own = lock.folder / generation_name(current)
            try:
                if own not in but and Manifest.load(own).state.identity == identity:
                    return own
            except (OSError, ValueError, KeyError, TypeError) as error:  # gone, cut, or of a layout of another version
                if whole:
                    raise DamagedBase(str(error)) from error
        found = []
        for sibling in siblings_of(lock.folder):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # likewise
                if sibling not in but and Manifest.load(sibling).state.identity == identity:
                    found.append((sibling.stat().st_mtime, sibling))
        return max(found)[1] if found else None


def siblings_of(folder: Path) -> list[Path]:
    """Folders of the generations that are published of a project's other branches."""
    found = []
    for current in folder.parent.glob("*/CURRENT"):
        if current.parent != folder:
            with contextlib.suppress(OSError, ValueError):  # gone while we looked
                found.append(current.parent / generation_name(int(current.read_text())))
    return found


def _number(folder: Path) -> int | None:
    """What tells a folder from another one that came in its place; None when there is none."""
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _name_of(folder: Path) -> str:
    try:
        return (folder / "NAME").read_text()
    except OSError:  # made by an earlier version: a name that needed no replacing is its folder's
        return "" if folder.name == DEFAULT_BRANCH else folder.name
