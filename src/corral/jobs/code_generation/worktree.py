"""The only way that a model touches files: confined to one worktree, links never followed, ``.git`` closed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_LARGEST_FILE_BYTES = 2 << 20
_SKIPPED_FOLDERS = {"node_modules", "__pycache__", ".venv", "venv", ".tox", ".mypy_cache", ".pytest_cache", "target"}


class PathRefusedError(ValueError):
    """The path is not one that may be touched; the message is for the model."""


class Worktree:
    """Reads and writes of one job's checkout."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """Where it is."""
        return self._root

    def clean(self, path: str) -> str:
        """The path in its one spelling: relative, forward slashes, nothing to resolve.

        Raises:
            PathRefusedError: It leaves the worktree, or lies in ``.git``.
        """
        told = path.strip().replace("\\", "/")
        while told.startswith("./"):
            told = told[2:]
        parts = PurePosixPath(told).parts
        if not parts or told.startswith("/") or ".." in parts or "\x00" in told:
            raise PathRefusedError(f"{path!r} is not a path inside the repository")
        # Case-insensitive file systems and the 8.3 name reach the same folder.
        if any(part.lower().rstrip(". ") in {".git", "git~1"} for part in parts):
            raise PathRefusedError(f"{path!r} belongs to git and can't be touched")
        return "/".join(parts)

    def read(self, path: str) -> bytes | None:
        """A regular file's bytes, or None when there is none.

        Raises:
            PathRefusedError: It may not be read: outside, a link, not a file, or too large.
        """
        path = self.clean(path)
        try:
            with self._folder(path, create=False) as (folder, name):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return None
        except OSError as error:
            raise PathRefusedError(f"{path!r} can't be read: links are not followed") from error
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise PathRefusedError(f"{path!r} is not a regular file")
            if found.st_size > _LARGEST_FILE_BYTES:
                raise PathRefusedError(f"{path!r} is too large ({found.st_size} bytes)")
            return file.read()

    def write(self, path: str, data: bytes) -> None:
        """Write a file, keeping its mode; folders are made as needed.

        Raises:
            PathRefusedError: Outside, through a link, or not a regular file.
        """
        path = self.clean(path)
        try:
            with self._folder(path, create=True) as (folder, name):
                fd = os.open(
                    name,
                    os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                    0o644,
                    dir_fd=folder,
                )
        except OSError as error:
            raise PathRefusedError(f"{path!r} can't be written: links are not followed") from error
        with os.fdopen(fd, "wb") as file:
            found = os.fstat(fd)
            # A second name of the inode may lie outside the worktree.
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise PathRefusedError(f"{path!r} is not a regular file of its own")
            os.ftruncate(fd, 0)
            file.write(data)

    def remove(self, path: str) -> None:
        """Remove a regular file.

        Raises:
            PathRefusedError: There is none, or it is not a regular file.
        """
        path = self.clean(path)
        try:
            with self._folder(path, create=False) as (folder, name):
                if not stat.S_ISREG(os.lstat(name, dir_fd=folder).st_mode):
                    raise PathRefusedError(f"{path!r} is not a regular file")
                os.unlink(name, dir_fd=folder)
        except OSError as error:
            raise PathRefusedError(f"{path!r} can't be removed: {error.strerror}") from error

    def files(self, *, limit: int = 20_000) -> list[str]:
        """Paths of all regular files, sorted; links and the folders of tools are left out."""
        found: list[str] = []
        for path in self._walk():
            found.append(path)
            if len(found) >= limit:
                break
        return sorted(found)

    def _walk(self) -> Iterator[str]:
        for folder, folders, names in os.walk(self._root, followlinks=False):
            folders[:] = sorted(name for name in folders if name != ".git" and name not in _SKIPPED_FOLDERS)
            base = Path(folder)
            for name in sorted(names):
                file = base / name
                if name != ".git" and stat.S_ISREG(file.lstat().st_mode):
                    yield file.relative_to(self._root).as_posix()

    def _folder(self, path: str, *, create: bool) -> _OpenFolder:
        return _OpenFolder(self._root, path, create=create)


class _OpenFolder:
    """The folder of a path, opened step by step so that no part of it can be a link, not even one made just now."""

    def __init__(self, root: Path, path: str, *, create: bool) -> None:
        self._root = root
        *self._folders, self._name = path.split("/")
        self._create = create
        self._fd = -1

    def __enter__(self) -> tuple[int, str]:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name in self._folders:
                if self._create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=fd)
                inner = os.open(name, flags, dir_fd=fd)
                os.close(fd)
                fd = inner
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return fd, self._name

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
