"""The only way that a model touches files: confined to one worktree, links never followed, ``.git`` closed."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_LARGEST_FILE_BYTES = 2 << 20
_SKIPPED_FOLDERS = {"node_modules", "__pycache__", ".venv", "venv", ".tox", ".mypy_cache", ".pytest_cache", "target"}


_IGNORED_CHARACTERS = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
"""macOS leaves them out of file names: with one in between, ``.git`` is still ``.git`` there."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
        if not parts or told.startswith("/") or ".." in parts or _CONTROL.search(told):
            raise PathRefusedError(f"{path!r} is not a path inside the repository")
        if any(_is_git(part) for part in parts):
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
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST_FILE_BYTES:
            os.close(fd)
            why = f"too large ({found.st_size} bytes)" if stat.S_ISREG(found.st_mode) else "not a regular file"
            raise PathRefusedError(f"{path!r} is {why}")
        with os.fdopen(fd, "rb") as file:
            return file.read()

    def is_executable(self, path: str) -> bool:
        """Whether a file may be run; False when there is none."""
        try:
            with self._folder(self.clean(path), create=False) as (folder, name):
                found = os.lstat(name, dir_fd=folder)
        except OSError:
            return False
        return stat.S_ISREG(found.st_mode) and bool(found.st_mode & stat.S_IXUSR)

    def write(self, path: str, data: bytes, *, executable: bool | None = None) -> None:
        """Write a file; folders are made as needed.

        Args:
            path: Where.
            data: All of its bytes.
            executable: Whether it may be run; None leaves a file's mode as it is, and a new one may not.

        Raises:
            PathRefusedError: Outside, through a link, not a regular file, or in a submodule, whose files would not get
                into the commit.
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
        except IsADirectoryError as error:
            raise PathRefusedError(f"{path!r} is a folder") from error
        except OSError as error:
            raise PathRefusedError(f"{path!r} can't be written: links are not followed") from error
        with os.fdopen(fd, "wb") as file:
            found = os.fstat(fd)
            # A second name of the inode may lie outside the worktree.
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
                raise PathRefusedError(f"{path!r} is not a regular file of its own")
            if executable is not None:
                mode = stat.S_IMODE(found.st_mode)
                # As git does it: whoever may read a program may run it.
                os.fchmod(fd, mode | (mode & 0o444) >> 2 if executable else mode & ~0o111)
            os.ftruncate(fd, 0)
            file.write(data)

    def remove(self, path: str) -> None:
        """Remove a regular file, and folders that are empty then: git knows no empty ones.

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
        self._remove_empty_folders(path)

    def _remove_empty_folders(self, path: str) -> None:
        while "/" in path:
            path = path.rpartition("/")[0]
            try:
                with self._folder(path, create=False) as (folder, name):
                    os.rmdir(name, dir_fd=folder)
            except OSError:
                return  # something else is in it

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
                made = self._create and _make_folder(name, fd)
                inner = os.open(name, flags, dir_fd=fd)
                os.close(fd)
                fd = inner
                if self._create and not made:
                    self._refuse_submodule(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        return fd, self._name

    def _refuse_submodule(self, fd: int) -> None:
        # Git has no empty folders but those that stand for submodules (initialised ones hold a file ``.git``).
        with os.scandir(fd) as entries:
            names = {entry.name for entry in entries}
        if not names or ".git" in names:
            raise PathRefusedError(f"{'/'.join([*self._folders, self._name])!r} is in a submodule, another repository")

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _make_folder(name: str, fd: int) -> bool:
    try:
        os.mkdir(name, 0o755, dir_fd=fd)
    except FileExistsError:
        return False
    return True


def _is_git(part: str) -> bool:
    # Case-insensitive file systems, the 8.3 name, and names with a stream or dots behind reach the same folder.
    plain = _IGNORED_CHARACTERS.sub("", part).lower().partition(":")[0].rstrip(". ")
    return plain in {".git", "git~1"}
