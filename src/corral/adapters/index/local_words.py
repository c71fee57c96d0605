"""Writing the lexical part of a generation: Tantivy, where it needn't wait for the disk.

A commit of Tantivy waits for the disk some eighteen times, a hundred milliseconds in all, for a durability that a
generation gets from its manifest instead. So a change of an index is committed in a folder in memory, whose files are
links to the generation's, and what is new is copied from there.

A new index is committed in runs, so that Tantivy never holds more than one however large the repository is. Queries
ask each of Tantivy's segments, so several runs are merged, by its own rule: eight segments of one size become one, and
all of at most ten thousand documents count as one size, with those up to 2^0.75 times as large. Runs are made eight
segments by some of a single chunk, for which the latest few are held back. Merging maps into memory what it merges;
the build waits meanwhile, and adds nothing to that.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections import deque
from pathlib import Path
from typing import Any

from corral.adapters.index.allocator import give_back, return_large_blocks
from corral.adapters.index.local_layout import open_words

_HEAP_BYTES = 32_000_000  # a run takes some 20; what it has beyond that it writes early
_SMALL_HEAP_BYTES = 15_000_000  # Tantivy's least
_MEMORY = Path("/dev/shm")  # noqa: S108 - its folders are made by mkdtemp, for this user only
_ROOM_BYTES = 64_000_000
_RUN_CHUNKS = 16_384
"""Of the size of a single chunk, as Tantivy counts sizes."""
_RUNS = 4
"""Merged into one: a large segment is fast to ask, but what is mapped while runs become one grows with it."""
_MERGED_AT_ONCE = 8
"""Segments of one size; Tantivy's default."""


class WordsWriter:
    """Adds and removes documents in ``folder``; nothing is there for others before ``commit``."""

    def __init__(self, folder: Path, *, fresh: bool) -> None:
        self._folder = folder
        self._fresh = fresh
        self._scratch: Path | None = None
        self._writer: Any = None
        self._held: deque[Any] = deque()
        self._runs = self._in_run = 0
        if fresh:
            return_large_blocks()
            folder.mkdir()
            self._index = open_words(folder, create=True)

    def add(self, document: Any) -> None:
        """Add a chunk."""
        if not self._fresh:
            self._open().add_document(document)
            return
        self._held.append(document)
        if len(self._held) == _MERGED_AT_ONCE:
            self._open().add_document(self._held.popleft())
            self._in_run += 1
            if self._in_run == _RUN_CHUNKS:
                self._end_run()

    def remove_file(self, file_id: int) -> None:
        """Remove a file's chunks."""
        self._held = deque(document for document in self._held if document.get_first("file") != file_id)
        self._open().delete_documents_by_term("file", file_id)

    def commit(self) -> None:
        """Have the folder hold what was added and removed."""
        if self._held:
            self._end_last_run()
        if self._writer is None:
            return
        self._writer.commit()
        self._wait_for_merges()
        if self._scratch is not None:
            self._bring_back(self._scratch)

    def _end_run(self) -> None:
        self._in_run = 0
        if self._runs + 1 < _RUNS:
            self._writer.commit()
            give_back()
            self._runs += 1
        else:
            self._end_last_run()
            self._writer.commit()
            self._wait_for_merges()
            self._runs = 0

    def _end_last_run(self) -> None:
        """Add what was held back; of several runs, so that there are as many segments as are merged."""
        singles = _MERGED_AT_ONCE - 1 - self._runs if self._runs else 0  # and one of what comes before them
        if len(self._held) <= singles:
            singles = 0  # some were removed again: the runs stay as they are
        while self._held:
            if len(self._held) <= singles:
                self._open().commit()
            self._open().add_document(self._held.popleft())

    def _wait_for_merges(self) -> None:
        if self._fresh:
            give_back()
        self._writer.wait_merging_threads()
        self._writer = None
        if self._fresh:
            give_back()

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
