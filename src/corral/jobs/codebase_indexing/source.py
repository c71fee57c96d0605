"""Where the files come from: a commit in a bare mirror, a git worktree as it lies there, or a plain folder.

A commit is read straight from the object store (``ls-tree``, ``cat-file --batch``): no checkout, nothing in the
repository is followed or run. A worktree is its HEAD plus what ``git status`` says differs. Every file has git's own
hash of its content, so that the three agree on what is the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
import time
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Final, Protocol

from corral.errors import GitFailed, SearchFailed
from corral.jobs.codebase_indexing import folders
from corral.jobs.codebase_indexing.folders import Folders
from corral.jobs.codebase_indexing.git_program import LIST_BLOCK_BYTES, contents, listed, printed, run, sizes
from corral.jobs.codebase_indexing.git_settings import head_of, left_out_of_checkout, without_filters

_HASH_LENGTHS = (40, 64)
_LS_TREE = ("ls-tree", "-r", "-z", "--full-tree", "--end-of-options")
_BATCH_BLOBS = 4096
"""Read by one git: the names of all of them, and what it says of each, are held."""
_LINK: Final = "link"
_REPOSITORY: Final = "repository"
"""In place of git's hash, for a link that git doesn't know, and for a repository inside that is no submodule."""


class EntryKind(StrEnum):
    """What lies at a path."""

    FILE = "file"
    SYMLINK = "symlink"
    SUBMODULE = "submodule"
    """A submodule, or a repository inside the repository."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One path."""

    path: str
    #: git's hash of the content; of the commit, for a submodule; ``""`` for a file that went before it was read.
    blob: str
    kind: EntryKind = EntryKind.FILE


@dataclass(frozen=True, slots=True)
class Change:
    """What differs from an earlier commit and state of the same source."""

    changed: Collection[Entry]
    removed: Sequence[str]


class Source(Protocol):
    """A set of files at one moment."""

    @property
    def commit(self) -> str:
        """Full hash; ``""`` for a folder that is no repository."""
        ...

    @property
    def notes(self) -> Mapping[str, str]:
        """What to keep in the index, for ``unchanged`` and ``changes`` to compare with."""
        ...

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:
        """Whether an index of that commit with those notes shows exactly these files."""
        ...

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:
        """What differs from an index of that commit; None when that can't be told, and all must be compared."""
        ...

    def entries(self) -> Collection[Entry]:
        """Everything, in order of path; may be gone through any number of times, and need not be in memory."""
        ...

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """Contents of files, in the order asked; None for one that is larger, gone, or no plain file any more.

        Each comes with its entry as it was when it was read: with another hash than asked for, if it changed since the
        source was made, and ``""`` if it is gone or no plain file. ``entries`` is taken from as contents are, not all
        at once.
        """
        ...


class CommitSource:
    """One commit of a repository, bare or not; ``""`` for one without commits."""

    def __init__(self, git_dir: Path, commit: str) -> None:
        self._git_dir = git_dir
        self._commit = commit

    @property
    def commit(self) -> str:
        """Full hash, or ``""``."""
        return self._commit

    @property
    def notes(self) -> Mapping[str, str]:
        """Nothing: a commit says all."""
        return {}

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:
        """Same commit, and that index saw nothing beside it."""
        return commit == self._commit and not notes.get("dirty")

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:
        """By ``diff-tree``, when the earlier commit is still there."""
        if len(commit) not in _HASH_LENGTHS or notes.get("dirty"):
            return None
        return _diff(["--git-dir", str(self._git_dir)], commit, self._commit)

    def entries(self) -> Collection[Entry]:
        """By ``ls-tree``."""
        return _Listing(["--git-dir", str(self._git_dir)], self._commit) if self._commit else ()

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """By ``cat-file --batch``."""
        return _read_blobs(["--git-dir", str(self._git_dir)], entries, limit_bytes)


class WorktreeSource:
    """A git worktree with its uncommitted changes and untracked files; what .gitignore names is not seen.

    What git says of a file holds for the moment of asking. Of files that change while, or just before, they are read
    the next look compares the content: size and times can't be trusted to tell.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._git = ["--git-dir", str(root / ".git"), "--work-tree", str(root), "-C", str(root)]
        self._looked_ns = time.time_ns()
        self._commit, self._dirty, self._nested = self._status()
        # Taken before anything is read: what is written from now on has another one.
        self._stamps = {path: _stamp(root / path) for path in self._dirty}
        self._stamps |= {path: [0, 0, 0] for path in self._nested}
        self._absent = left_out_of_checkout(root)
        self._blobs: dict[str, str] = {}  # of dirty files, as they were last read
        self._moved: dict[str, str] = {}

    @property
    def commit(self) -> str:
        """HEAD; ``""`` before the first commit."""
        return self._commit

    @property
    def notes(self) -> Mapping[str, str]:
        """The dirty files, each with size and times, or its hash where these can't be trusted; the sparse checkout."""
        shown = {path: self._noted(path, stamp) for path, stamp in self._stamps.items()}
        shown |= {path: [blob] for path, blob in self._moved.items()}
        notes = {"dirty": json.dumps(shown)} if shown else {}
        return {**notes, "sparse": self._sparse} if self._absent else notes

    def _noted(self, path: str, stamp: Sequence[int]) -> Sequence[object]:
        return stamp if stamp[-1] < self._looked_ns - folders.TICK_NS else [self._blobs.get(path, "")]

    @property
    def _sparse(self) -> str:
        listing = "\0".join(sorted(self._absent))
        return hashlib.sha256(os.fsencode(listing)).hexdigest() if self._absent else ""

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:
        """Same HEAD, same files checked out, and the same dirty files, by what was noted of them."""
        if commit != self._commit or notes.get("sparse", "") != self._sparse:
            return False
        before: dict[str, list[object]] = json.loads(notes.get("dirty") or "{}")
        if before.keys() != self._stamps.keys():
            return False
        doubtful = [path for path, stamp in self._stamps.items() if before[path] != stamp]
        return all(entry and before[path] == [entry.blob] for path, entry in self._lying(doubtful))

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:
        """HEAD's difference, plus what is dirty now or was then."""
        if len(commit) not in _HASH_LENGTHS or notes.get("sparse", "") != self._sparse:
            return None
        committed = Change((), ()) if commit == self._commit else _diff(self._git, commit, self._commit)
        if committed is None:
            return None
        changed = {entry.path: entry for entry in committed.changed if entry.path not in self._absent}
        removed = set(committed.removed)
        before: dict[str, object] = json.loads(notes.get("dirty") or "{}")
        again = [path for path in before if path not in self._stamps and path not in changed]
        if again:
            tree = _tree(self._git, self._commit, again) if self._commit else []
            restored = {entry.path: entry for entry in tree if entry.path not in self._absent}
            changed.update(restored)
            removed.update(path for path in again if path not in restored)
        for path, entry in self._lying(self._stamps):
            if entry is None:
                changed.pop(path, None)
                removed.add(path)
            else:
                removed.discard(path)
                changed[path] = entry
        return Change([changed[path] for path in sorted(changed)], sorted(removed))

    def entries(self) -> Collection[Entry]:
        """HEAD's files, overlaid with the dirty ones."""
        tree = _Listing(self._git, self._commit) if self._commit else ()
        if tree and not self._stamps and not self._absent:
            return tree
        found = {entry.path: entry for entry in tree if entry.path not in self._absent}
        for path, entry in self._lying(self._stamps):
            if entry is None:
                found.pop(path, None)
            else:
                found[path] = entry
        return [found[path] for path in sorted(found)]

    def repositories(self) -> list[str]:
        """Paths of submodules and of other repositories inside."""
        return [entry.path for entry in self.entries() if entry.kind is EntryKind.SUBMODULE]

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """From the folder; links are not followed."""
        return _read_files(self._root, entries, limit_bytes, _Look(self._looked_ns, self._moved, self._algorithm))

    def _status(self) -> tuple[str, list[str], list[str]]:
        told = run(
            [
                *self._git,
                "status",
                "--porcelain=v2",
                "--branch",
                "-z",
                "--untracked-files=all",
                "--no-renames",
                "--ignore-submodules=all",
            ],
            settings=without_filters(self._root),
        )
        commit = ""
        dirty: list[str] = []
        nested: list[str] = []
        for record in told.split(b"\0"):
            if record.startswith(b"# branch.oid "):
                oid = record[13:].decode()
                commit = "" if oid == "(initial)" else oid
            elif record[:2] in {b"1 ", b"u "}:
                fields = record.split(b" ", 8 if record[:1] == b"1" else 10)
                dirty.append(_path(fields[-1]))
            elif record.startswith(b"? "):
                path = _path(record[2:])
                if path.endswith("/"):  # a repository of its own: git says no more
                    nested.append(path.rstrip("/"))
                else:
                    dirty.append(path)
        return commit, dirty, nested

    @property
    def _algorithm(self) -> str:
        return "sha256" if len(self._commit) == _HASH_LENGTHS[1] else "sha1"

    def _lying(self, paths: Iterable[str]) -> Iterator[tuple[str, Entry | None]]:
        """Some of what differs from HEAD, as it lies there."""
        with Folders(self._root) as lying:
            for path in paths:
                if path in self._nested:
                    yield path, Entry(path, _REPOSITORY, EntryKind.SUBMODULE)
                    continue
                entry = _file_entry(lying, self._root, path, self._algorithm)
                self._blobs[path] = entry.blob if entry else ""
                yield path, entry


class FolderSource:
    """A folder that is no git repository; that nothing happened in it is known from sizes and times."""

    _NEVER = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "venv", ".tox", ".mypy_cache"})

    def __init__(self, root: Path) -> None:
        self._root = root
        self._looked_ns = time.time_ns()
        self._files: list[str] = []
        self._nested: list[str] = []
        self._newest_ns = 0
        self._stamp = self._look()
        self._moved: dict[str, str] = {}

    @property
    def commit(self) -> str:
        """None."""
        return ""

    @property
    def notes(self) -> Mapping[str, str]:
        """One hash of all names, sizes and times; nothing where a file is so new that it may change unseen."""
        trusted = not self._moved and self._newest_ns < self._looked_ns - folders.TICK_NS
        return {"stamp": self._stamp} if trusted else {}

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:
        """By that hash."""
        return not commit and notes.get("stamp") == self._stamp

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:
        """Nothing, or not known."""
        return Change((), ()) if self.unchanged(commit, notes) else None

    def entries(self) -> list[Entry]:
        """All files, each with the hash that git would give it."""
        found = [Entry(path, _REPOSITORY, EntryKind.SUBMODULE) for path in self._nested]
        with Folders(self._root) as lying:
            found += filter(None, (_file_entry(lying, self._root, path, "sha1") for path in self._files))
        return sorted(found, key=lambda entry: entry.path)

    def repositories(self) -> list[str]:
        """Paths of repositories inside."""
        return self._nested

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """From the folder; links are not followed."""
        return _read_files(self._root, entries, limit_bytes, _Look(self._looked_ns, self._moved, "sha1"))

    def _look(self) -> str:
        """Walk, without following links or entering the repositories inside, and give the hash of what is there."""
        digest = hashlib.sha256()
        for folder, names, files in os.walk(self._root):
            base = Path(folder)
            links = [name for name in names if (base / name).is_symlink()]
            inside = [name for name in names if name not in links and name not in self._NEVER]
            nested = [name for name in inside if (base / name / ".git").exists()]
            self._nested += (_relative(self._root, base / name) for name in nested)
            names[:] = sorted(set(inside) - set(nested))
            for name in sorted([*files, *links, *nested]):
                path = _relative(self._root, base / name)
                size, *times = _stamp(base / name) if name not in nested else [0]
                digest.update(os.fsencode(f"{path}\0{size}\0{times}\n"))
                self._newest_ns = max(self._newest_ns, *times, 0)
            self._files += (_relative(self._root, base / name) for name in [*files, *links])
        return digest.hexdigest()


def folder_source(root: Path) -> WorktreeSource | FolderSource | CommitSource:
    """A worktree when ``root`` is the top of one, HEAD of a bare repository, else a plain folder.

    Raises:
        SearchFailed: There is no such folder (any more).
    """
    if not root.is_dir():
        raise SearchFailed(
            f"expected a folder, found none at {str(root)!r}",
            service="index",
            operation="look",
            retryable=False,
            reason="no_folder",
        )
    if (root / ".git").exists():
        return WorktreeSource(root)
    head = head_of(root)
    return FolderSource(root) if head is None else CommitSource(root, head)


# --- git


def _path(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def shown_path(path: str) -> str:
    r"""A path as text that any store and any wire takes: bytes that are no UTF-8 become ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _kind(mode: bytes) -> EntryKind:
    if mode == b"120000":
        return EntryKind.SYMLINK
    return EntryKind.SUBMODULE if mode == b"160000" else EntryKind.FILE


class _Listing(Collection[Entry]):
    """All files of a commit, on the disk: in memory, those of a large repository would be as much as a build needs."""

    def __init__(self, git: Sequence[str], commit: str) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - for as long as this lives
        weakref.finalize(self, self._file.close)
        self._count = 0
        for block in printed([*git, *_LS_TREE, commit]):
            self._count += block.count(b"\0")
            self._file.write(block)
        self._file.flush()

    def __len__(self) -> int:
        return self._count

    def __contains__(self, entry: object) -> bool:
        return any(entry == one for one in self)

    def __iter__(self) -> Iterator[Entry]:
        at, rest = 0, b""
        while block := os.pread(self._file.fileno(), LIST_BLOCK_BYTES, at):
            at += len(block)
            *records, rest = (rest + block).split(b"\0")
            yield from _entries(records)


def _tree(git: Sequence[str], commit: str, paths: Sequence[str]) -> list[Entry]:
    """Some files of a commit."""
    told = listed([*git, "--literal-pathspecs", *_LS_TREE, commit, *paths])
    return list(_entries(told.split(b"\0")))


def _entries(records: Iterable[bytes]) -> Iterator[Entry]:
    for record in records:
        meta, tab, path = record.partition(b"\t")
        if tab:
            mode, _, blob = meta.split(b" ")
            yield Entry(_path(path), blob.decode(), _kind(mode))


def _diff(git: Sequence[str], old: str, new: str) -> Change | None:
    if not new:
        return None
    try:
        told = listed([*git, "diff-tree", "-r", "-z", "--raw", "--no-renames", "--end-of-options", old, new])
    except GitFailed as error:
        if error.reason == "too_many_files":
            raise
        return None  # the old commit is gone, as after a forced push
    changed, removed = [], []
    fields = told.split(b"\0")
    for meta, path in zip(fields[::2], fields[1::2], strict=False):
        _, mode, _, blob, status = meta.lstrip(b":").split(b" ")
        if status == b"D":
            removed.append(_path(path))
        else:
            changed.append(Entry(_path(path), blob.decode(), _kind(mode)))
    return Change(changed, removed)


def _read_blobs(git: Sequence[str], entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
    """Contents in order."""
    left = iter(entries)
    while batch := list(islice(left, _BATCH_BLOBS)):
        yield from _read_batch(git, batch, limit_bytes)


def _read_batch(git: Sequence[str], entries: Sequence[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
    """Contents in order; sizes are asked first, so that an enormous blob never enters memory."""
    known = sizes(git, [entry.blob for entry in entries])
    fits = [size is not None and size <= limit_bytes for size in known]
    found = contents(git, [entry.blob for entry, fit in zip(entries, fits, strict=True) if fit])
    try:
        for entry, size, fit in zip(entries, known, fits, strict=True):
            if size is None:
                yield replace(entry, blob=""), None  # a clone without all objects
            else:
                yield entry, next(found) if fit else None
    finally:
        found.close()


# --- files


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _stamp(path: Path) -> list[int]:
    """Size, and when the content and when anything of the file was changed; zeros when it isn't there."""
    try:
        status = path.lstat()
    except OSError:
        return [0, 0, 0]
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _file_entry(lying: Folders, root: Path, path: str, algorithm: str) -> Entry | None:
    """None when nothing is there; the content's hash as git would compute it."""
    try:
        status = (root / path).lstat()
    except OSError:
        return None
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, _LINK, EntryKind.SYMLINK)
    if not stat.S_ISREG(status.st_mode):
        return None
    content = lying.read(path, 1 << 26)
    if content is None:
        # Too large to be indexed anyway; its size and time stand for it.
        return Entry(path, f"large-{status.st_size}-{status.st_mtime_ns}")
    return Entry(path, _blob_of(content, algorithm))


def _blob_of(content: bytes, algorithm: str) -> str:
    digest = hashlib.new(algorithm, usedforsecurity=False)
    digest.update(b"blob %d\0" % len(content))
    digest.update(content)
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Look:
    """When a source looked at its files, the hashes of those that were others when they were read, and which hash."""

    at_ns: int
    moved: dict[str, str]
    algorithm: str


def _read_files(
    root: Path, entries: Iterable[Entry], limit_bytes: int, look: _Look
) -> Iterator[tuple[Entry, bytes | None]]:
    with Folders(root) as lying:
        for entry in entries:
            content = lying.read(entry.path, limit_bytes)
            if not lying.changed_ns:
                found = replace(entry, blob="")
            elif content is None or lying.changed_ns < look.at_ns - folders.TICK_NS:
                found = entry
            else:  # since the source looked, or so shortly before that the clock can't tell
                found = replace(entry, blob=_blob_of(content, look.algorithm))
            if found.blob != entry.blob:
                look.moved[entry.path] = found.blob
            yield found, content
