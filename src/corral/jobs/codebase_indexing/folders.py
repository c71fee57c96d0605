"""Reading files below a folder that is not trusted."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final, Self

_MORE_BYTES: Final = 1 << 16


class Folders:
    """Reads files below ``root``; keeps the folders of the last one open, as the next mostly lies beside it.

    No part of a path may be a link: that could lead out of the repository.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: list[str] = []
        self._handles: list[int] = []  # of the root and of each name

    def read(self, path: str, limit_bytes: int) -> bytes | None:
        """A plain file's content; None for anything else, and for one that is larger or gone."""
        *parents, name = path.split("/")
        try:
            folder = self._open(parents)
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            return None
        try:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode) or status.st_size > limit_bytes:
                return None
            content = _read_up_to(handle, limit_bytes + 1, status.st_size)
        finally:
            os.close(handle)
        return content if len(content) <= limit_bytes else None

    def _open(self, names: list[str]) -> int:
        if not self._handles:
            self._handles.append(os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        if names != self._names:
            same = 0
            while same < min(len(names), len(self._names)) and names[same] == self._names[same]:
                same += 1
            self._close_from(same)
            for name in names[same:]:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
                self._handles.append(os.open(name, flags, dir_fd=self._handles[-1]))
                self._names.append(name)
        return self._handles[-1]

    def _close_from(self, depth: int) -> None:
        del self._names[depth:]
        while len(self._handles) > depth + 1:
            os.close(self._handles.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._names.clear()
        while self._handles:
            os.close(self._handles.pop())


def _read_up_to(handle: int, count: int, expected: int) -> bytes:
    """What a file holds; ``os.read`` makes room for all that it is asked for, so it is asked for what is expected."""
    content = part = os.read(handle, min(count, expected + 1))
    while part and len(content) < count:  # mostly once more, to learn that this was all
        part = os.read(handle, min(count - len(content), _MORE_BYTES))
        content += part
    return content
