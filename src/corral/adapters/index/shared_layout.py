"""What is published of an index to an object store: ``current.json``, and files as lists of blocks."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_FORMAT: Final = 1
BLOCK_BYTES: Final = 1 << 20
RECORD: Final = "shared.json"
"""Beside a local copy: the ``current.json`` that it was fetched by or published as."""
_SAFE_PART: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,120}")
SAFE_BLOCK: Final = re.compile(r"(\d{8,12})-[0-9a-f]{32}/\d+")


@dataclass(frozen=True, slots=True)
class Block:
    """A megabyte of a file, or what is left at its end."""

    #: ``<generation>-<token>/<n>``, below the home of its index.
    key: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Root:
    """What ``current.json`` says."""

    generation: int
    token: str
    #: Where its blocks are, ``<project>/<branch>``.
    home: str
    #: No index, only the number of the last one.
    removed: bool = False
    files: Mapping[str, tuple[Block, ...]] = field(default_factory=dict)
    #: As the repository calls it; None when an earlier version published it.
    branch: str | None = None

    def dump(self) -> bytes:
        """The object's content."""
        files = {
            name: [[block.key, block.size, block.sha256] for block in blocks] for name, blocks in self.files.items()
        }
        said = {
            "format": _FORMAT,
            "generation": self.generation,
            "token": self.token,
            "home": self.home,
            "branch": self.branch,
            "removed": self.removed,
            "files": files,
        }
        return json.dumps(said, separators=(",", ":")).encode()

    @classmethod
    def load(cls, raw: bytes) -> Root:
        """From an object's content; ``ValueError``, ``KeyError`` or ``TypeError`` when it is not one of ours."""
        said = json.loads(raw)
        if said["format"] != _FORMAT:
            raise ValueError(f"expected format {_FORMAT}, got {said['format']!r}")
        files: dict[str, tuple[Block, ...]] = {}
        for name, blocks in said["files"].items():
            loaded = tuple(Block(str(key), int(size), str(digest)) for key, size, digest in blocks)
            if not all(map(_SAFE_PART.fullmatch, name.split("/"))) or not all(
                SAFE_BLOCK.fullmatch(block.key) for block in loaded
            ):
                raise ValueError(f"{name!r} is no file of an index")
            files[name] = loaded
        branch = said.get("branch")
        return cls(
            int(said["generation"]),
            str(said["token"]),
            str(said["home"]),
            bool(said["removed"]),
            files,
            None if branch is None else str(branch),
        )

    def keys(self) -> set[str]:
        """Of all blocks."""
        return {block.key for blocks in self.files.values() for block in blocks}


@dataclass(frozen=True, slots=True)
class Copy:
    """A block that another index has, and where it is on this machine should that one be gone."""

    key: str
    new_key: str
    path: Path
    offset: int


class Plan:
    """Which blocks a new generation brings, and which it takes over."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self.uploads: list[tuple[str, Path, int]] = []
        self.copies: list[Copy] = []

    @property
    def written(self) -> list[str]:
        """Keys of all blocks that it brings."""
        return [key for key, _, _ in self.uploads] + [copy.new_key for copy in self.copies]

    def blocks_of(self, path: Path, new: Path, base: Path | None, before: Root, home: str) -> tuple[Block, ...]:
        """The blocks of one file of a new generation; those that the base has too are not read again.

        Args:
            path: The file.
            new: The new generation's folder.
            base: The folder of the one that it began as.
            before: What that one is made of.
            home: Where the new one is published.
        """
        name = path.relative_to(new).as_posix()
        known = before.files.get(name, ())
        if base and known and _same_file(path, base / name):
            found: Iterator[tuple[int, Block, bool]] = ((index, block, True) for index, block in enumerate(known))
        else:
            found = _compared(path, known)
        return tuple(
            block if same and before.home == home else self._new(block, index, path, copied=same)
            for index, block, same in found
        )

    def _new(self, block: Block, index: int, path: Path, *, copied: bool) -> Block:
        key = f"{self._folder}/{len(self.uploads) + len(self.copies)}"
        if copied:
            self.copies.append(Copy(block.key, key, path, index * BLOCK_BYTES))
        else:
            self.uploads.append((key, path, index * BLOCK_BYTES))
        return Block(key, block.size, block.sha256)


def _compared(path: Path, known: Sequence[Block]) -> Iterator[tuple[int, Block, bool]]:
    """The blocks of a file, and whether each is what it was."""
    with path.open("rb") as file:
        index = 0
        while content := file.read(BLOCK_BYTES):
            digest = hashlib.sha256(content).hexdigest()
            old = known[index] if index < len(known) else None
            if old is not None and (old.size, old.sha256) == (len(content), digest):
                yield index, old, True
            else:
                yield index, Block("", len(content), digest), False
            index += 1


def block_key(home: str, block: Block) -> str:
    """Where a block is in the object store."""
    return f"{home}/o/{block.key}"


def read_block(path: Path, offset: int) -> bytes:
    """A block of a file here."""
    with path.open("rb") as file:
        return os.pread(file.fileno(), BLOCK_BYTES, offset)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def record_of(folder: Path) -> Root | None:
    """What a copy on this machine was fetched by or published as."""
    try:
        return Root.load((folder / RECORD).read_bytes())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # a copy that nobody can vouch for: it is fetched anew
