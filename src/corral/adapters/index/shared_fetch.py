"""Laying a published generation into a folder: from what copies on this machine have, else from the object store."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from corral.adapters.index.bucket import Bucket
from corral.adapters.index.shared_layout import BLOCK_BYTES, RECORD, Block, Root, block_key, read_block, record_of
from corral.errors import SearchFailed

_Missing = tuple[Block, Path, int]
"""A block, the file that it belongs into, and where there."""


class BlockGone(Exception):
    """A block is not in the store: a later generation is there, or it has been lost."""


class _Nearby:
    """What other branches' copies on this machine have, found by its content and read again before it is trusted."""

    def __init__(self, copies: Iterable[Path]) -> None:
        self._files: dict[tuple[tuple[int, str], ...], Path] = {}
        self._blocks: dict[tuple[int, str], tuple[Path, int]] = {}
        for copy in copies:
            record = record_of(copy)
            for name, blocks in record.files.items() if record else ():
                contents = tuple((block.size, block.sha256) for block in blocks)
                self._files[contents] = copy / name
                for index, content in enumerate(contents):
                    self._blocks[content] = (copy / name, index * BLOCK_BYTES)

    def link(self, blocks: Sequence[Block], target: Path) -> bool:
        """Make a file a link to one of the same content."""
        source = self._files.get(tuple((block.size, block.sha256) for block in blocks))
        if source is None or not blocks or not _linked(source, target):
            return False
        if all(_is_whole(block, read_block(target, index * BLOCK_BYTES)) for index, block in enumerate(blocks)):
            return True
        target.unlink()
        return False

    def read(self, block: Block) -> bytes | None:
        """A block's content."""
        path, offset = self._blocks.get((block.size, block.sha256), (None, 0))
        try:
            content = read_block(path, offset) if path else b""
        except OSError:  # swept away meanwhile
            return None
        return content if _is_whole(block, content) else None


def fetch(bucket: Bucket, root: Root, new: Path, old: Path | None, others: Sequence[Path]) -> int:
    """Lay a generation into an empty folder.

    Args:
        bucket: Where it is published.
        root: What it is made of.
        new: The folder.
        old: The last copy of this index, if there is one.
        others: Copies of other branches; they may be swept away at any time.

    Returns:
        How many bytes came from the store.

    Raises:
        BlockGone: A block is not there.
        SearchFailed: The store can't be asked, or a block is damaged.
        OSError: The disk refuses.
    """
    before = (record_of(old) if old else None) or Root(0, "", root.home)
    if before.home != root.home:
        before = Root(0, "", root.home)
    nearby = _Nearby(others)
    missing: list[_Missing] = []
    for name, blocks in root.files.items():
        path = new / name
        path.parent.mkdir(parents=True, exist_ok=True)
        known = before.files.get(name, ())
        if (old and known == blocks and _linked(old / name, path)) or nearby.link(blocks, path):
            continue
        missing += _laid(path, blocks, old / name if old else None, known, nearby)

    def take(index: int, content: bytes) -> None:
        block, path, offset = missing[index]
        if not _is_whole(block, content):
            raise _damaged(f"block {block.key} in the index store is damaged")
        _put(path, content, offset)

    if not bucket.fetch([block_key(root.home, block) for block, _, _ in missing], take):
        raise BlockGone
    (new / RECORD).write_bytes(root.dump())
    return sum(block.size for block, _, _ in missing)


def lost(home: str) -> SearchFailed:
    """What is said when blocks of the latest generation are not in the store."""
    return _damaged(f"blocks of {home} in the index store are gone")


def _laid(
    path: Path, blocks: Sequence[Block], old: Path | None, known: Sequence[Block], nearby: _Nearby
) -> list[_Missing]:
    """Make a file with the blocks that are on this machine; what is missing, and where it goes."""
    missing = []
    with path.open("wb") as file:
        for index, block in enumerate(blocks):
            offset = index * BLOCK_BYTES
            content = read_block(old, offset) if old and index < len(known) and known[index] == block else b""
            found = content if len(content) == block.size else nearby.read(block)
            if found is None:
                missing.append((block, path, offset))
            else:
                os.pwrite(file.fileno(), found, offset)
        file.truncate(sum(block.size for block in blocks))
    return missing


def _put(path: Path, content: bytes, offset: int) -> None:
    with path.open("r+b") as file:
        os.pwrite(file.fileno(), content, offset)


def _is_whole(block: Block, content: bytes) -> bool:
    return len(content) == block.size and hashlib.sha256(content).hexdigest() == block.sha256


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:  # gone, or a file system without hard links: it is copied or fetched
        return False
    return True


def _damaged(said: str) -> SearchFailed:
    return SearchFailed(
        f"{said}; index the project again with fullReindex",
        service="index",
        operation="fetch",
        retryable=False,
        reason="index_unreadable",
    )
