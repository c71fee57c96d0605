"""Writing the lexical part of a generation: Tantivy, where it needn't wait for the disk.

A commit of Tantivy waits for the disk some eighteen times, a hundred milliseconds in all, for a durability that a
generation gets from its manifest instead. So a change of an index is committed in a folder in memory, whose files are
links to the generation's, and what is new is copied from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from corral.adapters.index.local_layout import open_words

_HEAP_BYTES = 48_000_000
_SMALL_HEAP_BYTES = 15_000_000  # Tantivy's least
_MEMORY = Path("/dev/shm")  # noqa: S108 - its folders are made by mkdtemp, for this user only
_ROOM_BYTES = 64_000_000


class WordsWriter:
    """Adds and removes documents in ``folder``; nothing is there for others before ``commit``."""

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        self._folder = folder
        self._fresh = fresh
        self._scratch: Path | None = None
        self._writer: Any = None
        if fresh:
            folder.mkdir()
            self._index = open_words(folder, create=True)

    def add(self, document: Any) -> None:
        """Add a chunk."""
        self._open().add_document(document)

    def remove_file(self, file_id: int) -> None:
        """Remove a file's chunks."""
        self._open().delete_documents_by_term("file", file_id)

    def commit(self) -> None:
        """Have the folder hold what was added and removed."""
        if self._writer is None:
            return
        self._writer.commit()
        self._writer.wait_merging_threads()
        self._writer = None
        if self._scratch is not None:
            self._bring_back(self._scratch)

    def close(self) -> None:
        """Let go; what wasn't committed is gone."""
        if self._writer is not None:
            with contextlib.suppress(ValueError):
                self._writer.rollback()
            self._writer = None
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def _open(self) -> Any:
        if self._writer is None:
            if not self._fresh:
                self._scratch = self._in_memory()
                self._index = open_words(self._scratch or self._folder)
            # One thread: documents stay in order, and an index of this size gains nothing from more.
            self._writer = self._index.writer(_HEAP_BYTES if self._fresh else _SMALL_HEAP_BYTES, 1)
        return self._writer

    def _in_memory(self) -> Path | None:
        """A folder in memory with links to what the generation has; None where memory gives no room."""
        size = sum(path.stat().st_size for path in self._folder.iterdir())
        try:
            room = os.statvfs(_MEMORY)
            if room.f_bavail * room.f_frsize < 3 * size + _ROOM_BYTES:
                return None
            scratch = Path(tempfile.mkdtemp(prefix=_prefix(self._folder), dir=_MEMORY))
        except OSError:
            return None
        for left in _MEMORY.glob(f"{_prefix(self._folder)}*"):
            if left != scratch:  # of a killed writer: this index's lock is ours
                shutil.rmtree(left, ignore_errors=True)
        for path in self._folder.iterdir():
            if path.suffix == ".json":
                shutil.copyfile(path, scratch / path.name)
            else:
                (scratch / path.name).symlink_to(path.absolute())
        return scratch

    def _bring_back(self, scratch: Path) -> None:
        kept = {path.name for path in scratch.iterdir() if path.suffix != ".lock"}
        for path in self._folder.iterdir():
            if path.name not in kept or path.suffix == ".json":
                path.unlink()
        for name in kept:
            if not (scratch / name).is_symlink():
                shutil.copyfile(scratch / name, self._folder / name)


def _prefix(folder: Path) -> str:
    """Of this index's folders in memory, whatever the generation."""
    index = folder.absolute().parents[1]
    return f"corral-words-{hashlib.sha256(os.fsencode(index)).hexdigest()[:16]}-"
