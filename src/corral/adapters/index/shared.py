"""The index store for several machines: the local one's immutable files, published to an object store.

Every machine searches its own copy, at the local store's speed, and fetches what it lacks; nothing is built twice.

::

    <project>/<branch>/
        current.json                 which generation is published: its files, each a list of blocks; swapped, never
                                     overwritten: only who saw the last one may replace it
        o/<generation>-<token>/<n>   blocks of files, written once; the number of the generation that brought them

A block is a megabyte of one file at a fixed place, so that a changed page of a large file costs one block. A publisher
writes its blocks, swaps ``current.json`` and then deletes blocks that neither its generation nor the one before uses,
but none of a later number: those are another publisher's, at work. Who loses the swap publishes nothing, so a stopped
or fenced-off publisher that wakes up later can do no harm, and what it left behind has a number that the next one
deletes. Numbers never go back: removing an index leaves its number in ``current.json``.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Final

from corral.adapters.index.bucket import Bucket, Held, SwapRefused, Unchanged
from corral.adapters.index.copies import Copies, CopiesUse, CopyReader
from corral.adapters.index.local import DamagedBase, LocalIndexStore, siblings_of
from corral.adapters.index.local_layout import branch_folder, disk_failed, safe_name
from corral.adapters.index.local_lock import IndexLock
from corral.adapters.index.local_reader import LocalIndexReader
from corral.adapters.index.local_writer import LocalIndexWriter
from corral.adapters.index.port import IndexName, IndexState
from corral.adapters.index.shared_fetch import BlockGone, fetch
from corral.adapters.index.shared_fetch import lost as blocks_lost
from corral.adapters.index.shared_layout import BLOCK_BYTES, RECORD, SAFE_BLOCK, Plan, Root, read_block, record_of
from corral.errors import SearchFailed

_log = logging.getLogger(__name__)

_TRIES: Final = 5
_AWAY_S: Final = 10.0
"""How long a store that can't be asked is left alone by searches that have a copy."""
_ROOT: Final = "current.json"


@dataclass(frozen=True, slots=True)
class _Last:
    """A ``current.json`` that was seen, or that there was none."""

    tag: str | None = None
    root: Root | None = None

    @property
    def published(self) -> Root | None:
        """What there is of an index; None when there is none."""
        return None if self.root is None or self.root.removed else self.root


@dataclass(slots=True)
class _Seen:
    """What this process knows of one published index."""

    #: Held by the one thread that asks and fetches for the others. Never taken by who holds the index's own lock.
    lock: threading.Lock = field(default_factory=threading.Lock)
    checked: float = float("-inf")
    #: None before the store was asked for the first time.
    last: _Last | None = None
    _clock: Iterator[int] = field(default_factory=itertools.count)
    _as_of: int = -1
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> int:
        """A moment: before the store is asked, and after it has taken something."""
        return next(self._clock)

    def learn(self, last: _Last, as_of: int) -> None:
        """Remember it, unless something later is known: answers may come in another order than they were given."""
        with self._telling:
            if as_of >= self._as_of:
                self.last, self._as_of = last, as_of


class SharedIndexStore:
    """Indexes in an object store, with a copy of each one that was asked for on this machine.

    Args:
        bucket: Where they are published.
        copies: Folder of this machine's copies; it can be deleted at any time, and belongs to this bucket alone.
        copies_bytes: Most that they may take on the disk; beyond it the least recently used that nobody has open go.
        refresh: How old this process's knowledge of the latest generation may be; a search that finds it older asks
            the store and fetches first. While one thread fetches, others are answered from the copy at hand.
        lock_timeout: How long a writer waits for another one on this machine.
    """

    def __init__(
        self,
        bucket: Bucket,
        copies: Path,
        *,
        copies_bytes: int = 10_000_000_000,
        refresh: timedelta = timedelta(seconds=1),
        lock_timeout: timedelta = timedelta(minutes=10),
    ) -> None:
        self._bucket = bucket
        self._local = LocalIndexStore(copies, lock_timeout=lock_timeout)
        self._copies = Copies(copies, copies_bytes)
        self._refresh_s = refresh.total_seconds()
        self._indexes: dict[IndexName, _Seen] = {}
        self._checked = False

    # --- reading

    def current(self, name: IndexName) -> int | None:
        """Number of the published generation; asks the object store at most once per ``refresh``."""
        last = self._refresh(name, wait=self._local.current(name) is None).last
        here = self._local.current(name)
        if last is None:
            return here
        if last.published is None:
            return None  # also where its copy could not be deleted yet
        return last.published.generation if here is None else here  # its copy may have gone for want of room just now

    def open(self, name: IndexName) -> LocalIndexReader | None:
        """The published generation; None when there is none."""
        folder = self._local.folder(name)
        for _ in range(_TRIES):
            if self.current(name) is None:
                return None
            used = self._copies.hold(folder, make=True)  # from here on no copy goes for want of room
            reader = None
            try:
                if self._local.current(name) is None:
                    self._refresh(name, wait=True)
                reader = self._open_copy(name, used)
            except SearchFailed as error:
                if error.reason != "index_removed":
                    raise
            finally:
                if reader is None and used is not None:
                    used.close()
                    self._copies.forget(folder)
            if reader is not None:
                return reader  # else it was removed just now
        raise _busy("open", "the index is removed and made again faster than it can be opened")

    def _open_copy(self, name: IndexName, used: IO[bytes] | None) -> LocalIndexReader | None:
        if used is None:  # can't be: it was made
            raise TypeError(used)

        def make(folder: Path) -> LocalIndexReader:
            return CopyReader(folder, used)

        try:
            return self._local.open(name, make)
        except SearchFailed:
            _log.warning("the copy of the index of %r can't be read: it is fetched again", name.project_id)
        with self._local.lock(name) as lock:
            if not self._local.is_whole(lock):
                lock.clear()
            self._settle(name, lock)
        return self._local.open(name, make)

    # --- writing

    def writer(
        self, name: IndexName, *, identity: str, embedder: str, dimension: int, fresh: bool = False
    ) -> LocalIndexWriter:
        """Begin a generation from the published one, which is fetched first; see the port.

        Writers on other machines are not kept from beginning too: whoever publishes first wins, and the others'
        ``publish`` raises ``index_busy``.
        """
        if not self._checked:
            self._bucket.check()
            self._checked = True
        with contextlib.ExitStack() as undo:
            with contextlib.ExitStack() as kept:
                if not fresh and self._ask(name).published is None:
                    self._have_a_sibling(name, kept)
                # What is published is asked for under the lock: nothing that others here do can come between.
                lock = undo.enter_context(self._local.lock(name))
                begin = functools.partial(
                    self._begin, name, lock, identity=identity, embedder=embedder, dimension=dimension, fresh=fresh
                )
                try:
                    writer = undo.enter_context(begin(whole=True))
                except DamagedBase as error:
                    _log.warning("the copy of the index of %r is fetched again: %s", name.project_id, error)
                    lock.clear()
                    writer = undo.enter_context(begin(whole=False))
            undo.pop_all()  # from here on it is the caller's
            return writer

    def _begin(self, name: IndexName, lock: IndexLock, *, fresh: bool, whole: bool, **made: Any) -> LocalIndexWriter:
        last = self._known_or_fetched(name, lock, fresh=fresh)
        return self._local.begin(
            lock,
            fresh=fresh,
            above=last.root.generation if last.root else 0,
            sealed=functools.partial(self._publish, name, last),
            whole=whole and last.published is not None,
            **made,
        )

    def branches(self, project_id: str) -> list[str]:
        """Branches of a project that have an index; one that an earlier version published is left out."""
        project = safe_name(project_id)
        with_blocks = {key.split("/o/")[0] for key in self._bucket.keys(project) if "/o/" in key}
        found: dict[int, Root] = {}

        def take(index: int, content: bytes) -> None:
            found[index] = _loaded(Held(content, ""), project_id)

        self._bucket.fetch([f"{home}/{_ROOT}" for home in sorted(with_blocks)], take)
        return sorted(root.branch for root in found.values() if not root.removed and root.branch is not None)

    def remove(self, project_id: str, branch: str | None = None) -> None:
        """Forget the index of a branch, or all of a project; of each its last number is kept, some hundred bytes."""
        project = safe_name(project_id)
        folders = self._bucket.folders(project) if branch is None else [branch_folder(branch)]
        for folder in folders:
            self._remove(f"{project}/{folder}", project_id)
        for name, seen in list(self._indexes.items()):
            if name.project_id == project_id and branch in {None, name.branch}:
                seen.checked = float("-inf")
        self._local.remove(project_id, branch)

    def check(self) -> None:
        """Whether the object store can be used; see ``Bucket.check``."""
        self._bucket.check()

    def copies_use(self) -> CopiesUse:
        """How much the copies on this machine take."""
        return self._copies.use()

    # --- keeping up

    def _seen(self, name: IndexName) -> _Seen:
        return self._indexes.setdefault(name, _Seen())

    def _ask(self, name: IndexName) -> _Last:
        """What is published now."""
        seen = self._seen(name)
        last, as_of = seen.last or _Last(), seen.now()
        held = self._bucket.read_unless(_root_key(name), last.tag)
        if not isinstance(held, Unchanged):
            last = _Last() if held is None else _Last(held.tag, _loaded(held, name.project_id))
        seen.learn(last, as_of)
        return last

    def _refresh(self, name: IndexName, *, wait: bool) -> _Seen:
        """Bring this machine's copy up to date; when the store can't be asked, a copy at hand is good enough.

        Args:
            name: Of which index.
            wait: For another thread or process that is doing it; else go on with what is here.
        """
        seen = self._seen(name)
        if not self._due(name, seen) or not seen.lock.acquire(blocking=wait):
            return seen
        try:
            if self._due(name, seen):
                self._catch_up(name, seen, wait=wait)
        except SearchFailed as error:
            if self._local.current(name) is None:
                raise
            if error.reason != "index_busy":  # a writer here will publish, or lose and let go
                _log.warning("%s; search goes on in the copy at hand", error)
            seen.checked = time.monotonic() + (0 if error.reason == "index_busy" else _AWAY_S)
        finally:
            seen.lock.release()
        return seen

    def _due(self, name: IndexName, seen: _Seen) -> bool:
        """Whether to ask the store: the last answer is old, or the copy that it led to has been deleted since."""
        if time.monotonic() - seen.checked >= self._refresh_s:
            return True
        published = seen.last is not None and seen.last.published is not None
        return published and self._local.current(name) is None

    def _catch_up(self, name: IndexName, seen: _Seen, *, wait: bool) -> None:
        for _ in range(_TRIES):
            last = self._ask(name)
            try:
                if not self._is_here(name, last):
                    with self._local.lock(name, wait=wait) as lock:
                        last = self._settle(name, lock)
            except SearchFailed as error:
                if error.reason != "index_removed":
                    raise
                continue
            if last.published is None:
                self._copies.forget(self._local.folder(name))
            seen.checked = time.monotonic()
            return
        raise _busy("fetch", "the index is removed again and again while it is fetched")

    def _is_here(self, name: IndexName, last: _Last) -> bool:
        folder = self._local.current_folder(name)
        if last.published is None:
            return folder is None
        record = record_of(folder) if folder else None
        return record is not None and record.token == last.published.token

    def _settle(self, name: IndexName, lock: IndexLock) -> _Last:
        """Have what is published here, and nothing else.

        What the store said before the lock was taken doesn't count: others may have laid down a later generation since,
        and no copy goes back in time.
        """
        lost = None
        for _ in range(_TRIES):
            last = self._ask(name)
            try:
                self._adopt_last(name, lock, last)
            except BlockGone:
                if last == lost:  # nothing has been published since: nobody deleted them in good order
                    raise blocks_lost(_home(name)) from None
                lost = last
                continue
            return last
        raise _busy("fetch", "the index changes faster than it can be fetched")

    def _adopt_last(self, name: IndexName, lock: IndexLock, last: _Last) -> None:
        if self._is_here(name, last):
            return
        root = last.published
        if root is None:
            lock.clear()
            return
        fetched, is_new = 0, lock.current() is None

        def fill(folder: Path, old: Path | None) -> None:
            nonlocal fetched
            fetched = fetch(self._bucket, root, folder, old, siblings_of(lock.folder))

        self._local.adopt(lock, root.generation, fill)
        self._make_room(fetched, new=is_new)

    def _known_or_fetched(self, name: IndexName, lock: IndexLock, *, fresh: bool) -> _Last:
        """What is published, and with that its copy; a writer that begins empty needs none, and mends a damaged one."""
        try:
            return self._settle(name, lock)
        except SearchFailed as error:
            if not fresh or error.reason != "index_unreadable":
                raise
            _log.warning("%s: it is made anew", error)
            return self._ask(name)

    def _make_room(self, more_bytes: int, *, new: bool) -> None:
        """Delete copies beyond the bound; not the one whose lock is held."""
        try:
            self._copies.grown(more_bytes, new=new)
        except OSError as error:
            raise disk_failed("make room", error) from error

    def _have_a_sibling(self, name: IndexName, kept: contextlib.ExitStack) -> None:
        """So that a new branch begins as a copy of one that is there: the default branch, else any."""
        for sibling in self._siblings(name):
            folder = self._local.folder(sibling)
            used = self._copies.hold(folder, make=True)
            try:
                found = self.current(sibling) is not None
            except SearchFailed as error:
                if error.reason not in {"index_busy", "index_unreadable"}:
                    raise
                _log.warning("%s; branch %r does not begin as its copy", error, name.branch)
                found = False
            finally:
                if used is not None:
                    kept.callback(self._copies.forget, folder)
                    kept.callback(used.close)
            if found:
                return

    def _siblings(self, name: IndexName) -> Iterator[IndexName]:
        if name.branch:
            yield IndexName(name.project_id)
        project = safe_name(name.project_id)
        for folder in self._bucket.folders(project):
            if folder in {branch_folder(name.branch), branch_folder("")}:
                continue
            held = self._bucket.read(f"{project}/{folder}/{_ROOT}")
            root = _loaded(held, name.project_id) if held else None
            if root is not None and not root.removed and root.branch is not None:
                yield IndexName(name.project_id, root.branch)

    # --- publishing

    def _publish(self, name: IndexName, last: _Last, new: Path, base: Path | None, state: IndexState) -> None:
        """Make a sealed local generation everybody's, or raise and leave everything as it was."""
        token = uuid.uuid4().hex
        home = _home(name)
        before = (record_of(base) if base else None) or Root(0, "", home)
        plan = Plan(f"{state.generation:08d}-{token}")
        files = {
            path.relative_to(new).as_posix(): plan.blocks_of(path, new, base, before, home)
            for path in sorted(new.rglob("*"))
            if path.is_file() and path.name != RECORD and not path.name.endswith(".lock")
        }
        root = Root(state.generation, token, home, files=files, branch=name.branch)
        self._write(plan, before.home, home)
        (new / RECORD).write_bytes(root.dump())  # before the swap: after it, nothing may fail any more
        try:
            published = _Last(self._bucket.swap(_root_key(name), root.dump(), last.tag), root)
        except SwapRefused:
            published = self._despite_refusal(name, root, plan)
        seen = self._seen(name)
        seen.learn(published, seen.now())
        if published.root is root:
            keep = root.keys() | (last.root.keys() if last.root else set())
            self._clean(lambda: self._sweep(home, state.generation, keep))
        self._clean(lambda: self._make_room(len(plan.uploads) * BLOCK_BYTES, new=base is None))

    def _despite_refusal(self, name: IndexName, root: Root, plan: Plan) -> _Last:
        """What is published now, if ours was too: its answer got lost, and the write was sent again and refused.

        By then another publisher may have built on it, so nothing that is in use is deleted.

        Raises:
            SearchFailed: Ours was not; its blocks are gone.
        """
        held = self._bucket.read(_root_key(name))
        now = _loaded(held, name.project_id) if held else None
        if held is not None and now is not None:
            if now.token == root.token:
                return _Last(held.tag, root)
            if not now.keys().isdisjoint(plan.written):
                return _Last(held.tag, now)
        self._clean(lambda: self._bucket.delete([f"{root.home}/o/{key}" for key in plan.written]))
        raise _busy("publish", "another machine published this index meanwhile") from None

    def _write(self, plan: Plan, source: str, home: str) -> None:
        left = [
            copy for copy in plan.copies if not self._bucket.copy(f"{source}/o/{copy.key}", f"{home}/o/{copy.new_key}")
        ]
        uploads = [*plan.uploads, *((copy.new_key, copy.path, copy.offset) for copy in left)]
        self._bucket.write(
            (f"{home}/o/{key}", functools.partial(read_block, path, offset)) for key, path, offset in uploads
        )

    def _sweep(self, home: str, generation: int, keep: set[str]) -> None:
        """Delete blocks that nobody needs, none of a later number."""
        gone = []
        for key in self._bucket.keys(f"{home}/o"):
            block = key.rpartition("/o/")[2]
            found = SAFE_BLOCK.fullmatch(block)
            if found and int(found[1]) <= generation and block not in keep:
                gone.append(key)
        self._bucket.delete(gone)

    def _remove(self, home: str, project_id: str) -> None:
        key = f"{home}/{_ROOT}"
        for _ in range(_TRIES):
            held = self._bucket.read(key)
            root = _loaded(held, project_id) if held else None
            generation = root.generation if root else self._newest_block(home)
            if generation is None:
                return
            if root is None or not root.removed:
                gone = Root(generation, uuid.uuid4().hex, home, removed=True)
                try:
                    self._bucket.swap(key, gone.dump(), held.tag if held else None)
                except SwapRefused:
                    continue
            self._sweep(home, generation, set())
            return
        raise _busy("remove", "the index changes faster than it can be removed")

    def _newest_block(self, home: str) -> int | None:
        """The number of blocks whose publisher was stopped before its swap; None when there are none."""
        found = [SAFE_BLOCK.fullmatch(key.rpartition("/o/")[2]) for key in self._bucket.keys(f"{home}/o")]
        return max((int(block[1]) for block in found if block), default=None)

    @staticmethod
    def _clean(work: Callable[[], None]) -> None:
        try:
            work()
        except SearchFailed as error:
            _log.warning("%s; the next publication cleans up", error)


def _loaded(held: Held, project_id: str) -> Root:
    try:
        return Root.load(held.content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SearchFailed(
            f"the published index of project {project_id!r} can't be read ({error}); delete its objects and index "
            "the project again",
            service="index",
            operation="fetch",
            retryable=False,
            reason="index_unreadable",
        ) from error


def _home(name: IndexName) -> str:
    return f"{safe_name(name.project_id)}/{branch_folder(name.branch)}"


def _root_key(name: IndexName) -> str:
    return f"{_home(name)}/{_ROOT}"


def _busy(operation: str, said: str) -> SearchFailed:
    return SearchFailed(said, service="index", operation=operation, retryable=True, reason="index_busy")
