"""Where the files come from: a commit in a bare mirror, a git worktree as it lies there, or a plain folder.

A commit is read straight from the object store (``ls-tree``, ``cat-file --batch``): no checkout, nothing in the
repository is followed or run. A worktree is its HEAD plus what ``git status`` says differs. Every file has git's own
hash of its content, so that the three agree on what is the same.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import stat
import subprocess
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import IO, Protocol

from corral.errors import GitFailed
from corral.jobs.codebase_indexing.folders import Folders

_GIT = (
    "git",
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "core.attributesFile=/dev/null",
    "-c",
    "protocol.allow=never",
    "-c",
    "safe.directory=*",
    "-c",
    "core.quotePath=false",
)
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",
    "LC_ALL": "C.UTF-8",
    "HOME": "/nonexistent",
}
_HASH_LENGTHS = (40, 64)
_MAX_LIST_BYTES = 200_000_000
"""Of a listing by git: some two million files. A few objects can stand for any number of files."""
_MAX_LIST_MEMORY_BYTES = 500_000_000
"""Of git itself while it lists: ``diff-tree`` keeps all that it found until it has found everything."""

_LIST_BLOCK_BYTES = 1 << 16
_LS_TREE = ("ls-tree", "-r", "-z", "--full-tree", "--end-of-options")

_BATCH_BLOBS = 4096
"""Read by one git: the names of all of them, and what it says of each, are held."""


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
    #: git's hash of the content; of the commit, for a submodule.
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

        ``entries`` is taken from as contents are, not all at once.
        """
        ...


class CommitSource:
    """One commit of a repository, bare or not."""

    def __init__(self, git_dir: Path, commit: str) -> None:
        self._git_dir = git_dir
        self._commit = commit

    @property
    def commit(self) -> str:
        """Full hash."""
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
        return _Listing(["--git-dir", str(self._git_dir)], self._commit)

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """By ``cat-file --batch``."""
        return _read_blobs(["--git-dir", str(self._git_dir)], entries, limit_bytes)


class WorktreeSource:
    """A git worktree with its uncommitted changes and untracked files; what .gitignore names is not seen."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._git = ["-C", str(root)]
        self._commit, self._dirty, self._nested = self._status()

    @property
    def commit(self) -> str:
        """HEAD; ``""`` before the first commit."""
        return self._commit

    @property
    def notes(self) -> Mapping[str, str]:
        """The dirty files with size and time."""
        stamps = {path: _stamp(self._root / path) for path in self._dirty}
        return {"dirty": json.dumps(stamps)} if stamps else {}

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:
        """Same HEAD and the same dirty files, by size and time."""
        return commit == self._commit and notes.get("dirty", "") == self.notes.get("dirty", "")

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:
        """HEAD's difference, plus what is dirty now or was then."""
        if len(commit) not in _HASH_LENGTHS:
            return None
        committed = Change((), ()) if commit == self._commit else _diff(self._git, commit, self._commit)
        if committed is None:
            return None
        changed = {entry.path: entry for entry in committed.changed}
        removed = set(committed.removed)
        before: dict[str, object] = json.loads(notes.get("dirty") or "{}")
        again = [path for path in before if path not in self._dirty and path not in changed]
        if again:
            restored = {entry.path: entry for entry in _tree(self._git, self._commit, again)} if self._commit else {}
            changed.update(restored)
            removed.update(path for path in again if path not in restored)
        for path in self._dirty:
            entry = self._entry(path)
            if entry is None:
                changed.pop(path, None)
                removed.add(path)
            else:
                removed.discard(path)
                changed[path] = entry
        return Change([changed[path] for path in sorted(changed)], sorted(removed))

    def entries(self) -> Collection[Entry]:
        """HEAD's files, overlaid with the dirty ones."""
        listed = _Listing(self._git, self._commit) if self._commit else ()
        if listed and not self._dirty and not self._nested:
            return listed
        found = {entry.path: entry for entry in listed}
        for path in self._dirty:
            entry = self._entry(path)
            if entry is None:
                found.pop(path, None)
            else:
                found[path] = entry
        for path in self._nested:
            found[path] = Entry(path, "", EntryKind.SUBMODULE)
        return [found[path] for path in sorted(found)]

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """From the folder; links are not followed."""
        return _read_files(self._root, entries, limit_bytes)

    def _status(self) -> tuple[str, list[str], list[str]]:
        printed = _run(
            [
                *self._git,
                "status",
                "--porcelain=v2",
                "--branch",
                "-z",
                "--untracked-files=all",
                "--no-renames",
                "--ignore-submodules=all",
            ]
        )
        commit = ""
        dirty: list[str] = []
        nested: list[str] = []
        for record in printed.split(b"\0"):
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

    def _entry(self, path: str) -> Entry | None:
        return _file_entry(self._root, path, sha256=len(self._commit) == _HASH_LENGTHS[1])


class FolderSource:
    """A folder that is no git repository."""

    _NEVER = frozenset({".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", "venv", ".tox", ".mypy_cache"})

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def commit(self) -> str:
        """None."""
        return ""

    @property
    def notes(self) -> Mapping[str, str]:
        """Nothing."""
        return {}

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:  # noqa: ARG002 - the port's
        """Never known without looking."""
        return False

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:  # noqa: ARG002 - the port's
        """Never known without looking."""
        return None

    def entries(self) -> list[Entry]:
        """By walking; links are not followed, repositories inside not entered."""
        found: list[Entry] = []
        for folder, names, files in os.walk(self._root):
            base = Path(folder)
            found.extend(
                Entry(_relative(self._root, base / name), "", EntryKind.SUBMODULE)
                for name in names
                if (base / name / ".git").exists()
            )
            names[:] = sorted(name for name in names if name not in self._NEVER and not (base / name / ".git").exists())
            for name in files:
                entry = _file_entry(self._root, _relative(self._root, base / name), sha256=False)
                if entry is not None:
                    found.append(entry)
        return sorted(found, key=lambda entry: entry.path)

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """From the folder; links are not followed."""
        return _read_files(self._root, entries, limit_bytes)


def folder_source(root: Path) -> WorktreeSource | FolderSource:
    """A worktree when ``root`` is the top of one, else a plain folder."""
    return WorktreeSource(root) if (root / ".git").exists() else FolderSource(root)


# --- git


def _path(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def shown_path(path: str) -> str:
    r"""A path as text that any store and any wire takes: bytes that are no UTF-8 become ``\xNN``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _environment() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", os.defpath), **_ENVIRONMENT}


def _run(arguments: Sequence[str], ok: Iterable[int] = (0,), stdin: bytes | None = None) -> bytes:
    try:
        done = subprocess.run(
            [*_GIT, *arguments], capture_output=True, env=_environment(), input=stdin or b"", check=False
        )
    except OSError as error:
        raise _failed(arguments, str(error)) from error
    if done.returncode not in ok:
        raise _failed(arguments, done.stderr.decode("utf-8", "replace").strip()[:300])
    return done.stdout


def _listed(arguments: Sequence[str]) -> bytes:
    """What git prints, up to a bound."""
    return b"".join(_printed(arguments))


def _printed(arguments: Sequence[str]) -> Iterator[bytes]:
    """What git prints, up to a bound, as it comes."""
    size = 0
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                [*_GIT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                env=_environment(),
                bufsize=1 << 18,
            )
        except OSError as error:
            raise _failed(arguments, str(error)) from error
        try:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (_MAX_LIST_MEMORY_BYTES, _MAX_LIST_MEMORY_BYTES))
            assert process.stdout is not None  # noqa: S101 - asked for above
            while block := process.stdout.read(_LIST_BLOCK_BYTES):
                size += len(block)
                if size > _MAX_LIST_BYTES:
                    raise GitFailed(
                        f"the repository has too many files: a list of them has more than {_MAX_LIST_BYTES:,} bytes",
                        service="git",
                        operation="list",
                        retryable=False,
                        reason="too_many_files",
                    )
                yield block
            if process.wait() != 0:
                said.seek(0)
                raise _failed(arguments, said.read(2000).decode("utf-8", "replace").strip()[:300])
        finally:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


def _failed(arguments: Sequence[str], said: str) -> GitFailed:
    operation = next((part for part in arguments[2:] if not part.startswith("-")), "git")
    return GitFailed(f"git {operation}: {said}", service="git", operation=operation, retryable=False)


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
        for block in _printed([*git, *_LS_TREE, commit]):
            self._count += block.count(b"\0")
            self._file.write(block)
        self._file.flush()

    def __len__(self) -> int:
        return self._count

    def __contains__(self, entry: object) -> bool:
        return any(entry == one for one in self)

    def __iter__(self) -> Iterator[Entry]:
        at, rest = 0, b""
        while block := os.pread(self._file.fileno(), _LIST_BLOCK_BYTES, at):
            at += len(block)
            *records, rest = (rest + block).split(b"\0")
            yield from _entries(records)


def _tree(git: Sequence[str], commit: str, paths: Sequence[str]) -> list[Entry]:
    """Some files of a commit."""
    printed = _listed([*git, "--literal-pathspecs", *_LS_TREE, commit, *paths])
    return list(_entries(printed.split(b"\0")))


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
        printed = _listed([*git, "diff-tree", "-r", "-z", "--raw", "--no-renames", "--end-of-options", old, new])
    except GitFailed as error:
        if error.reason == "too_many_files":
            raise
        return None  # the old commit is gone, as after a forced push
    changed, removed = [], []
    fields = printed.split(b"\0")
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
    names = "".join(f"{entry.blob}\n" for entry in entries).encode()
    checked = _run([*git, "cat-file", "--batch-check=%(objecttype) %(objectsize)"], stdin=names).splitlines()
    fits = [line.startswith(b"blob ") and int(line[5:]) <= limit_bytes for line in checked]
    wanted = [entry for entry, fit in zip(entries, fits, strict=True) if fit]
    if not wanted:
        yield from ((entry, None) for entry in entries)
        return
    # The names come from a file, not a pipe: git can then never wait for us while we wait for it.
    with _as_file("".join(f"{entry.blob}\n" for entry in wanted).encode()) as stdin:
        process = subprocess.Popen(
            [*_GIT, *git, "cat-file", "--batch", "--buffer"],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(),
            bufsize=1 << 18,
        )
    try:
        out = process.stdout
        assert out is not None  # noqa: S101 - asked for above
        for entry, fit in zip(entries, fits, strict=True):
            if not fit:
                yield entry, None
                continue
            header = out.readline().split()
            if len(header) != 3:
                raise _failed([*git, "cat-file"], f"no content for {entry.blob}")
            size = int(header[2])
            content = out.read(size + 1)
            if len(content) != size + 1:
                raise _failed([*git, "cat-file"], f"{entry.blob} ended early")
            yield entry, content[:-1]
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[IO[bytes]]:
    handle = os.memfd_create("corral-blobs")
    with os.fdopen(handle, "w+b") as file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield file


# --- files


def _relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _stamp(path: Path) -> list[int]:
    try:
        status = path.lstat()
    except OSError:
        return [0, 0]
    return [status.st_size, status.st_mtime_ns]


def _file_entry(root: Path, path: str, *, sha256: bool) -> Entry | None:
    """None when nothing is there; the content's hash as git would compute it."""
    try:
        status = (root / path).lstat()
    except OSError:
        return None
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, "", EntryKind.SYMLINK)
    if not stat.S_ISREG(status.st_mode):
        return None
    with Folders(root) as folders:
        content = folders.read(path, 1 << 26)
    if content is None:
        # Too large to be indexed anyway; its size and time stand for it.
        return Entry(path, f"large-{status.st_size}-{status.st_mtime_ns}")
    digest = hashlib.new("sha256" if sha256 else "sha1", usedforsecurity=False)
    digest.update(b"blob %d\0" % len(content))
    digest.update(content)
    return Entry(path, digest.hexdigest())


def _read_files(root: Path, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
    with Folders(root) as folders:
        for entry in entries:
            yield entry, folders.read(entry.path, limit_bytes)
