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
import hashlib
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

from corral.adapters.index.bucket import Bucket, Held, SwapRefused, Unchanged
from corral.adapters.index.copies import Copies, CopiesUse, CopyReader
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.local_layout import branch_folder, disk_failed, safe_name
from corral.adapters.index.local_reader import LocalIndexReader
from corral.adapters.index.local_writer import LocalIndexWriter
from corral.adapters.index.port import IndexName, IndexState
from corral.adapters.index.shared_layout import (
    BLOCK_BYTES,
    RECORD,
    SAFE_BLOCK,
    Block,
    Plan,
    Root,
    read_block,
    record_of,
)
from corral.errors import SearchFailed

_log = logging.getLogger(__name__)

_TRIES: Final = 5
_AWAY_S: Final = 10.0
"""How long a store that can't be asked is left alone by searches that have a copy."""
_ROOT: Final = "current.json"


class _BlockGone(Exception):
    """A block was deleted while it was fetched: a later generation is there."""


@dataclass(frozen=True, slots=True)
class _Last:
    """The last ``current.json`` that was seen, if there is one."""

    tag: str | None = None
    root: Root | None = None

    @property
    def published(self) -> bool:
        """Whether there is an index."""
        return self.root is not None and not self.root.removed


@dataclass(slots=True)
class _Seen:
    """What this process knows of one published index."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    checked: float = float("-inf")
    last: _Last = field(default_factory=_Last)


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
        here = self._local.current(name)
        self._refresh(name, wait=here is None)
        return self._local.current(name)

    def open(self, name: IndexName) -> LocalIndexReader | None:
        """The published generation; None when there is none."""
        for _ in range(_TRIES):
            if self.current(name) is None:
                return None
            try:
                reader = self._open_copy(name)
            except SearchFailed:
                _log.warning("the copy of the index of %r can't be read: it is fetched again", name.project_id)
                self._drop(name)
                self._refresh(name, wait=True, force=True)
                reader = self._open_copy(name)
            if reader is not None:
                return reader  # else it was deleted for want of room just now: once more
        raise _busy("copies of indexes are deleted faster than they can be opened; raise CORRAL_INDEX_COPIES_MB")

    def _open_copy(self, name: IndexName) -> LocalIndexReader | None:
        used = self._copies.hold(self._local.folder(name))
        if used is None:
            return None
        reader = None
        try:
            reader = self._local.open(name, lambda folder: CopyReader(folder, used))
        finally:
            if reader is None:
                used.close()
        return reader

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
        for _ in range(_TRIES):
            last = self._refresh(name, wait=True, force=True).last
            if not fresh and self._local.current(name) is None:
                self._fetch_a_sibling(name)
            published = last.root if last.published else None
            with self._kept(name):
                if published and self._local.current(name) is None:
                    continue  # deleted for want of room just now
                writer = self._local.writer(
                    name,
                    identity=identity,
                    embedder=embedder,
                    dimension=dimension,
                    fresh=fresh,
                    above=last.root.generation if last.root else 0,
                    sealed=functools.partial(self._publish, name, last),
                )
            # The local lock is ours now. Did the index move on while we waited for it, or did somebody here who had
            # asked earlier lay down an older generation? All that is newer would be missing from what we publish.
            begun = False
            try:
                if fresh or self._token_here(name) == (published.token if published else None):
                    now = self._bucket.read_unless(_root_key(name), last.tag)
                    begun = isinstance(now, Unchanged) or (now is None and last.tag is None)
            finally:
                if not begun:
                    writer.__exit__(None, None, None)
            if begun:
                return writer
        raise _busy("other machines publish this index again and again")

    def branches(self, project_id: str) -> list[str]:
        """Branches of a project that have an index; one that an earlier version published is left out."""
        project = safe_name(project_id)
        with_blocks = {key.split("/o/")[0] for key in self._bucket.keys(project) if "/o/" in key}
        found: dict[int, Root] = {}

        def take(index: int, content: bytes) -> None:
            found[index] = _loaded(Held(content, ""), IndexName(project_id))

        self._bucket.fetch([f"{home}/{_ROOT}" for home in sorted(with_blocks)], take)
        return sorted(root.branch for root in found.values() if not root.removed and root.branch is not None)

    def remove(self, project_id: str, branch: str | None = None) -> None:
        """Forget the index of a branch, or all of a project; of each its last number is kept, some hundred bytes."""
        project = safe_name(project_id)
        folders = self._bucket.folders(project) if branch is None else [branch_folder(branch)]
        for folder in folders:
            self._remove(f"{project}/{folder}")
        self._local.remove(project_id, branch)
        for name, seen in list(self._indexes.items()):
            if name.project_id == project_id and branch in {None, name.branch}:
                seen.checked = float("-inf")

    def check(self) -> None:
        """Whether the object store can be used; see ``Bucket.check``."""
        self._bucket.check()

    def copies_use(self) -> CopiesUse:
        """How much the copies on this machine take."""
        return self._copies.use()

    # --- keeping up

    def _refresh(self, name: IndexName, *, wait: bool, force: bool = False) -> _Seen:
        """Bring this machine's copy up to date.

        Args:
            name: Of which index.
            wait: For another thread that is doing it; else go on with what is here.
            force: Ask now, and fail when the store can't be asked; else a copy at hand is good enough.
        """
        seen = self._indexes.setdefault(name, _Seen())
        if not force and not self._due(name, seen):
            return seen
        if not seen.lock.acquire(blocking=wait):
            return seen
        try:
            if force or self._due(name, seen):
                self._catch_up(name, seen, wait=wait)
        except SearchFailed as error:
            if force or self._local.current(name) is None:
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
        return seen.last.published and self._local.current(name) is None

    @contextlib.contextmanager
    def _kept(self, name: IndexName) -> Iterator[None]:
        """Keep the copy of an index, if there is one, while a writer begins: from then on its own lock does."""
        used = self._copies.hold(self._local.folder(name))
        try:
            yield
        finally:
            if used is not None:
                used.close()

    def _catch_up(self, name: IndexName, seen: _Seen, *, wait: bool) -> None:
        for _ in range(_TRIES):
            held = self._bucket.read_unless(_root_key(name), seen.last.tag)
            if isinstance(held, Held):
                seen.last = _Last(held.tag, _loaded(held, name))
            elif held is None:
                seen.last = _Last()
            root = seen.last.root
            if root is None or root.removed:
                if self._local.current(name) is not None:
                    self._drop(name)
            elif self._token_here(name) != root.token:
                try:
                    self._adopt(name, root, wait=wait)
                except _BlockGone:
                    continue
            seen.checked = time.monotonic()
            return
        raise _busy("the index changes faster than it can be fetched")

    def _adopt(self, name: IndexName, root: Root, *, wait: bool = True) -> None:
        fetched = 0
        new = self._local.current(name) is None

        def fill(folder: Path, old: Path | None) -> None:
            nonlocal fetched
            fetched = self._fetch(root, folder, old)

        self._local.adopt(name, root.generation, fill, wait=wait)
        self._make_room(name, fetched, new=new)

    def _make_room(self, name: IndexName, more_bytes: int, *, new: bool) -> None:
        with self._kept(name):
            try:
                self._copies.grown(more_bytes, new=new)
            except OSError as error:
                raise disk_failed("make room", error) from error

    def _token_here(self, name: IndexName) -> str | None:
        folder = self._local.current_folder(name)
        record = record_of(folder) if folder else None
        return record.token if record else None

    def _drop(self, name: IndexName) -> None:
        folder = self._local.current_folder(name)
        (self._local.folder(name) / "CURRENT").unlink(missing_ok=True)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _fetch_a_sibling(self, name: IndexName) -> None:
        """So that a new branch begins as a copy of one that is there: the default branch, else any."""
        if name.branch and self._refresh(IndexName(name.project_id), wait=True, force=True).last.root is not None:
            return
        project = safe_name(name.project_id)
        for folder in self._bucket.folders(project):
            if folder in {branch_folder(name.branch), branch_folder("")}:
                continue
            held = self._bucket.read(f"{project}/{folder}/{_ROOT}")
            root = _loaded(held, name) if held else None
            if root is None or root.removed or root.branch is None:
                continue
            try:
                self._adopt(IndexName(name.project_id, root.branch), root)
            except _BlockGone:
                continue
            return

    def _fetch(self, root: Root, new: Path, old: Path | None) -> int:
        """Lay a generation into an empty folder, from the last copy where that has the same, else from the store.

        Returns:
            How many bytes came from the store.
        """
        before = (record_of(old) if old else None) or Root(0, "", root.home)
        if before.home != root.home:
            before = Root(0, "", root.home)
        missing: list[tuple[Block, Path, int]] = []
        for name, blocks in root.files.items():
            path = new / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if old and before.files.get(name) == blocks and _linked(old / name, path):
                continue
            missing += _laid(path, blocks, old / name if old else None, before.files.get(name, ()))

        def take(index: int, content: bytes) -> None:
            block, path, offset = missing[index]
            if len(content) != block.size or hashlib.sha256(content).hexdigest() != block.sha256:
                raise SearchFailed(
                    f"block {block.key} in the index store is damaged; index the project again with fullReindex",
                    service="index",
                    operation="fetch",
                    retryable=False,
                    reason="index_unreadable",
                )
            with path.open("r+b") as file:
                os.pwrite(file.fileno(), content, offset)

        keys = [_block_key(root.home, block) for block, _, _ in missing]
        if not self._bucket.fetch(keys, take):
            raise _BlockGone
        (new / RECORD).write_bytes(root.dump())
        return sum(block.size for block, _, _ in missing)

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
        try:
            seen_tag = self._bucket.swap(_root_key(name), root.dump(), last.tag)
        except SwapRefused:
            held = self._bucket.read(_root_key(name))
            if held is None or _loaded(held, name).token != token:
                self._clean(lambda: self._bucket.delete([f"{home}/o/{key}" for key in plan.written]))
                raise _busy("another machine published this index meanwhile") from None
            seen_tag = held.tag  # it was ours: the first answer got lost, and the write was sent again
        record = new / f"{RECORD}.new"
        record.write_bytes(root.dump())
        record.replace(new / RECORD)
        seen = self._indexes.setdefault(name, _Seen())
        seen.last = _Last(seen_tag, root)
        keep = root.keys() | (last.root.keys() if last.root else set())
        self._clean(lambda: self._sweep(home, state.generation, keep))
        self._clean(lambda: self._make_room(name, len(plan.uploads) * BLOCK_BYTES, new=base is None))

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

    def _remove(self, home: str) -> None:
        key = f"{home}/{_ROOT}"
        for _ in range(_TRIES):
            held = self._bucket.read(key)
            root = Root.load(held.content) if held else None
            if held is None or root is None:
                return
            if not root.removed:
                try:
                    self._bucket.swap(key, Root(root.generation, uuid.uuid4().hex, home, removed=True).dump(), held.tag)
                except SwapRefused:
                    continue
            self._sweep(home, root.generation, set())
            return
        raise _busy("the index changes faster than it can be removed")

    @staticmethod
    def _clean(work: Callable[[], None]) -> None:
        try:
            work()
        except SearchFailed as error:
            _log.warning("%s; the next publication cleans up", error)


def _laid(
    path: Path, blocks: Sequence[Block], old: Path | None, known: Sequence[Block]
) -> list[tuple[Block, Path, int]]:
    """Make a file with the blocks that the last copy has; what is missing, and where it goes."""
    missing = []
    with path.open("wb") as file:
        for index, block in enumerate(blocks):
            offset = index * BLOCK_BYTES
            content = read_block(old, offset) if old and index < len(known) and known[index] == block else b""
            if len(content) == block.size:
                os.pwrite(file.fileno(), content, offset)
            else:
                missing.append((block, path, offset))
        file.truncate(sum(block.size for block in blocks))
    return missing


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # gone, or a file system without hard links: it is copied or fetched
        return False
    return True


def _loaded(held: Held, name: IndexName) -> Root:
    try:
        return Root.load(held.content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SearchFailed(
            f"the published index of project {name.project_id!r} can't be read ({error}); delete its objects and index "
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


def _block_key(home: str, block: Block) -> str:
    return f"{home}/o/{block.key}"


def _busy(said: str) -> SearchFailed:
    return SearchFailed(said, service="index", operation="publish", retryable=True, reason="index_busy")
