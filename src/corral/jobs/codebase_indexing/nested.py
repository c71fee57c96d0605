"""Repositories inside a repository, where somebody has said that they belong to it.

A submodule of a commit is read from the mirror of the registered project that it is, and only if the outer project's
registration names that project: what a repository says of its submodules would otherwise open every other project's
code to whoever may write to one. Inside a folder nothing is asked of the inner repository's git at all, whose settings
may run programs: its files are read as those of any folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from corral.adapters.git import GitRemote
from corral.errors import GitFailed
from corral.jobs.codebase_indexing.screening import WrappedSource
from corral.jobs.codebase_indexing.source import Change, Entry, EntryKind, FolderSource, Source, WorktreeSource

_MOST: Final = 100
"""Inner repositories of one outer one."""
_NOTE: Final = "inner"
_GITMODULES_BYTES: Final = 200_000


class NestedSource(WrappedSource):
    """A source with others inside of it, each below a path at which the outer one has a submodule.

    Args:
        outer: The files around.
        inner: By path, with slashes; with none it still notices that an index has what was inner then.
    """

    def __init__(self, outer: Source, inner: Mapping[str, Source]) -> None:
        super().__init__(outer)
        self._inner = dict(inner)

    @property
    def notes(self) -> Mapping[str, str]:
        """The outer source's, and what each inner one shows."""
        shown = {path: [source.commit, dict(source.notes)] for path, source in sorted(self._inner.items())}
        return {**self._source.notes, _NOTE: json.dumps(shown)} if shown else self._source.notes

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:
        """Only if all are."""
        before = _shown(notes)
        return (
            before.keys() == self._inner.keys()
            and self._source.unchanged(commit, _outer(notes))
            and all(source.unchanged(*before[path]) for path, source in self._inner.items())
        )

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:
        """Of all of them; None when there are others than before, or one can't tell."""
        before = _shown(notes)
        if before.keys() != self._inner.keys():
            return None
        outer = self._source.changes(commit, _outer(notes))
        if outer is None:
            return None
        changed = [entry for entry in outer.changed if entry.path not in self._inner]
        removed = list(outer.removed)
        for path, source in self._inner.items():
            inner = source.changes(*before[path])
            if inner is None:
                return None
            changed += _below(path, inner.changed)
            removed += [f"{path}/{name}" for name in inner.removed]
        return Change(changed, removed)

    def entries(self) -> Collection[Entry]:
        """The outer source's, with the inner ones' in place of submodules."""
        if not self._inner:
            return self._source.entries()
        found = [entry for entry in self._source.entries() if entry.path not in self._inner]
        for path, source in self._inner.items():
            found += _below(path, source.entries())
        return sorted(found, key=lambda entry: entry.path)

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        """Each from its source, in the order asked."""
        for path, some in groupby(entries, key=lambda entry: self._home(entry.path)):
            if path is None:
                yield from self._source.read(some, limit_bytes)
                continue
            asked = list(some)
            inside = [Entry(entry.path[len(path) + 1 :], entry.blob, entry.kind) for entry in asked]
            contents = self._inner[path].read(inside, limit_bytes)
            yield from ((entry, content) for entry, (_, content) in zip(asked, contents, strict=True))

    def _home(self, path: str) -> str | None:
        parts = path.split("/")
        return next(
            (above for end in range(1, len(parts)) if (above := "/".join(parts[:end])) in self._inner),
            None,
        )


def _below(path: str, entries: Iterable[Entry]) -> list[Entry]:
    return [Entry(f"{path}/{entry.path}", entry.blob, entry.kind) for entry in entries]


def _outer(notes: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in notes.items() if name != _NOTE}


def _shown(notes: Mapping[str, str]) -> dict[str, tuple[str, Mapping[str, str]]]:
    return {path: (commit, inner) for path, (commit, inner) in json.loads(notes.get(_NOTE) or "{}").items()}


# --- in a folder


class InnerFolder(FolderSource):
    """A repository inside a folder, as plain files; that nothing changed is known from sizes and times."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._stamp = self._stamped()

    @property
    def notes(self) -> Mapping[str, str]:
        """One hash of all names, sizes and times."""
        return {"stamp": self._stamp}

    def unchanged(self, commit: str, notes: Mapping[str, str]) -> bool:
        """By that hash."""
        return not commit and notes.get("stamp") == self._stamp

    def changes(self, commit: str, notes: Mapping[str, str]) -> Change | None:
        """Nothing, or not known."""
        return Change((), ()) if self.unchanged(commit, notes) else None

    def _stamped(self) -> str:
        digest = hashlib.sha256()
        for folder, names, files in os.walk(self._root):
            names[:] = sorted(name for name in names if name not in self._NEVER)
            for name in sorted(files):
                try:
                    status = (Path(folder) / name).lstat()
                except OSError:
                    continue  # gone while we looked: the next look sees that
                digest.update(os.fsencode(f"{folder}/{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
        return digest.hexdigest()


def with_inner_folders(root: Path, outer: WorktreeSource | FolderSource) -> NestedSource:
    """A folder's source with the repositories inside; those inside of these stay out, and so do links."""
    inner: dict[str, Source] = {}
    for entry in outer.entries():
        if entry.kind is EntryKind.SUBMODULE and len(inner) < _MOST and _is_plain_folder(root, entry.path):
            inner[entry.path] = InnerFolder(root / entry.path)
    return NestedSource(outer, inner)


def _is_plain_folder(root: Path, path: str) -> bool:
    """Whether no part of the path is a link: that could lead out of the folder."""
    here = root
    for part in path.split("/"):
        here /= part
        if here.is_symlink() or not here.is_dir():
            return False
    return True


# --- of a commit


def submodule_addresses(git_dir: Path, commit: str, repository: str) -> dict[str, str]:
    """Path to address of the submodules that a commit declares.

    Args:
        git_dir: Of the mirror.
        commit: Whose ``.gitmodules`` is read.
        repository: The outer repository's address, which theirs may be relative to.
    """
    done = subprocess.run(
        [
            "git",
            "--git-dir",
            str(git_dir),
            "config",
            "--no-includes",
            "--blob",
            f"{commit}:.gitmodules",
            "-z",
            "--list",
        ],
        capture_output=True,
        env={"PATH": os.environ.get("PATH", os.defpath), "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull},
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0 or len(done.stdout) > _GITMODULES_BYTES:
        return {}  # there are none, or what is there is no such file
    declared: dict[str, dict[str, str]] = {}
    for record in done.stdout.decode("utf-8", "surrogateescape").split("\0"):
        key, _, value = record.partition("\n")
        name, _, field = key.removeprefix("submodule.").rpartition(".")
        if key.startswith("submodule.") and field in {"path", "url"}:
            declared.setdefault(name, {})[field] = value
    return {
        one["path"].strip("/"): _absolute(one["url"], repository)
        for one in list(declared.values())[:_MOST]
        if {"path", "url"} <= one.keys()
    }


def _absolute(url: str, repository: str) -> str:
    if not url.startswith(("./", "../")):
        return url
    parts = urlsplit(repository)
    path = posixpath.normpath(posixpath.join(parts.path, url))
    return f"{parts.scheme}://{parts.netloc}{path}" if parts.scheme else path


def same_repository(one: str, other: str) -> bool:
    """Whether two addresses name one repository."""
    return _plain(one) == _plain(other)


def _plain(address: str) -> str:
    try:
        GitRemote(address)
    except GitFailed:
        return f"unsupported {address}"
    return address.rstrip("/").removesuffix(".git").lower() if "://" in address else address.rstrip("/")
