"""What a candidate did to the worktree's files, so that it can be taken back."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

from corral.jobs.code_generation.worktree import PathRefusedError, Worktree


class Version(NamedTuple):
    """A file as it is at one time."""

    data: bytes
    executable: bool = False


class Changes:
    """Reads and writes of one worktree, all of which can be undone."""

    def __init__(self, worktree: Worktree) -> None:
        self._worktree = worktree
        self._originals: dict[str, Version | None] = {}

    def read(self, path: str) -> bytes | None:
        """A file as it is now; see ``Worktree.read``."""
        return self._worktree.read(path)

    def write(self, path: str, data: bytes | None, *, executable: bool | None = None) -> None:
        """Write a file, or remove it (None); see ``Worktree.write``."""
        path = self._worktree.clean(path)
        before = self._version(path)
        if data is None:
            self._worktree.remove(path)
        else:
            self._worktree.write(path, data, executable=executable)
        self._originals.setdefault(path, before)

    def write_all(self, files: Mapping[str, bytes | None], *, renamed: Mapping[str, str] | None = None) -> None:
        """Write and remove files: all of them, or none when one is refused.

        Args:
            files: Bytes by path, None to remove.
            renamed: Of files in ``files``, which ones they were: the mode goes with the name.

        Raises:
            PathRefusedError: See ``Worktree.write``; nothing was changed.
        """
        modes = {path: self._worktree.is_executable(old) for path, old in (renamed or {}).items()}
        before = {path: self._version(path) for path in files}
        try:
            for path, data in files.items():
                self.write(path, data, executable=modes.get(path))
        except PathRefusedError:
            for path, version in before.items():
                self._put(path, version)
            raise

    def changed(self) -> dict[str, Version | None]:
        """The files that differ from the base, as they are now; None means removed."""
        now = {path: self._version(path) for path in self._originals}
        return {path: version for path, version in now.items() if version != self._originals[path]}

    def restore(self, files: Mapping[str, Version | None] | None = None) -> None:
        """Take all changes back, then make those in ``files``."""
        for path, version in self._originals.items():
            self._put(path, version)
        for path, version in (files or {}).items():
            if version is None:
                self.write(path, None)
            else:
                self.write(path, version.data, executable=version.executable)

    def digest(self) -> str:
        """A hash of what ``changed`` gives."""
        digest = hashlib.sha256()
        for path, version in sorted(self.changed().items()):
            told = None if version is None else [version.executable, hashlib.sha256(version.data).hexdigest()]
            digest.update(json.dumps([path, told]).encode())
        return digest.hexdigest()

    def syntax_errors(self) -> str:
        """What doesn't parse among the changed files, for the model; empty when all does."""
        said: list[str] = []
        for path, version in sorted(self.changed().items()):
            if version is None:
                continue
            try:
                if path.endswith((".py", ".pyi")):
                    ast.parse(version.data, filename=path)
                elif path.endswith(".json"):
                    json.loads(version.data)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                # The last two are what the parsers make of text that is nested thousands of levels deep.
                line = getattr(error, "lineno", None)
                said.append(f"{path}, line {line}: {getattr(error, 'msg', None) or error or 'nested too deeply'}")
        return "\n".join(said)

    def _version(self, path: str) -> Version | None:
        data = self._worktree.read(path)
        return None if data is None else Version(data, self._worktree.is_executable(path))

    def _put(self, path: str, version: Version | None) -> None:
        if version is not None:
            self._worktree.write(path, version.data, executable=version.executable)
        elif self._worktree.read(path) is not None:
            self._worktree.remove(path)
