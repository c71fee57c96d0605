"""A segment: the files that one build, or one merge of segments, has put into an index. Never changed once written.

::

    columns-<name>.bin   files, chunks, symbols, imports (``local_columns``)
    vectors-<name>.bin   one row for each chunk (``local_text``)
    text-<name>.pack     the files' texts, each compressed

Files and chunks keep their numbers for as long as the index lives, through merges too; which files of a segment are
dead is said by the manifest of each generation.
"""

from __future__ import annotations

import os
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corral.adapters.index.local_columns import Strings, load_columns, numbers
from corral.adapters.index.local_lines import Lines
from corral.adapters.index.local_text import (
    map_vectors,
    similarities,
    unpack_vectors,
    vector_dtype,
)
from corral.adapters.index.port import Candidates, ChunkRow, FileRow, StoredChunk, SymbolRow
from corral.adapters.index.signature import held

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEX_LENGTHS = (40, 64)


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """A segment as the manifest lists it."""

    #: Random: the files of one segment may be linked into the generations of many branches.
    name: str
    files: int
    chunks: int
    #: Numbers of its files that are no longer there.
    dead: frozenset[int] = frozenset()
    dead_chunks: int = 0

    @property
    def live_chunks(self) -> int:
        """Chunks of files that are still there."""
        return self.chunks - self.dead_chunks

    def paths(self, folder: Path) -> tuple[Path, Path, Path]:
        """Its files in a generation's folder: columns, vectors, text."""
        return (
            folder / f"columns-{self.name}.bin",
            folder / f"vectors-{self.name}.bin",
            folder / f"text-{self.name}.pack",
        )

    def unlink(self, folder: Path) -> None:
        """Take its files out of a generation."""
        for path in self.paths(folder):
            path.unlink()


def name_bytes(text: str) -> bytes:
    """A path or a name as a column holds it."""
    return text.encode("utf-8", "surrogatepass")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def packed_blob(blob: str) -> bytes:
    """A hash in half its length, anything else as it is, told apart by the first byte."""
    if len(blob) in _HEX_LENGTHS:
        try:
            raw = bytes.fromhex(blob)
        except ValueError:
            pass
        else:
            if raw.hex() == blob:
                return b"#" + raw
    return b"=" + name_bytes(blob)


def _unpacked_blob(raw: bytes) -> str:
    return raw[1:].hex() if raw[:1] == b"#" else _text(raw[1:])


class Segment:
    """A segment, open for reading; threads may share it."""

    def __init__(self, folder: Path, entry: SegmentEntry) -> None:
        columns_path, vectors_path, pack_path = entry.paths(folder)
        columns, meta = load_columns(columns_path)
        self.name = entry.name
        self.dimension: int = meta["dimension"]
        self.languages: list[str] = meta["languages"]
        self.kinds: list[str] = meta["kinds"]
        self.kind_sets: list[str] = meta["kindSets"]
        self.reasons: list[str] = meta["reasons"]
        self._columns = columns
        self.files = _prefixed(columns, "file_")
        self.chunks = _prefixed(columns, "chunk_")
        self._symbols = _prefixed(columns, "symbol_")
        self._paths, self._blobs, self._names = (Strings(columns, name) for name in ("path", "blob", "name"))
        self.uids: NDArray[Any] = self.chunks["uid"]
        self._language_of_file = numbers(self.files["language"])
        self._first_uid = int(self.uids[0]) if len(self.uids) else 0
        #: Whether the chunks' numbers have no gap, as in every segment that was never merged.
        self._gapless = len(self.uids) > 0 and int(self.uids[-1]) - self._first_uid + 1 == len(self.uids)
        self._chunk_numbers = {name: numbers(column) for name, column in self.chunks.items()}
        self.vectors = map_vectors(vectors_path, len(self.uids), self.dimension)
        expected = len(self.uids) * vector_dtype(self.dimension).itemsize
        if vectors_path.stat().st_size != expected:
            raise ValueError(f"expected {expected} bytes of vectors in {vectors_path.name}")
        self._pack = os.open(pack_path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._pack)

    @cached_property
    def file_of_chunk(self) -> NDArray[np.uint32]:
        """Row of each chunk's file."""
        first = self.files["chunk"].astype(np.int64)
        return np.repeat(np.arange(len(first) - 1, dtype=np.uint32), first[1:] - first[:-1])

    @cached_property
    def _file_of_chunk(self) -> memoryview:
        return numbers(self.file_of_chunk)

    def place_of_chunk(self, uid: int) -> tuple[int, int] | None:
        """Rows of a chunk and of its file; None when it isn't here."""
        if self._gapless:
            row = uid - self._first_uid
            return (row, self._file_of_chunk[row]) if 0 <= row < len(self.uids) else None
        uids = self._chunk_numbers["uid"]
        row = bisect_left(uids, uid)
        return (row, self._file_of_chunk[row]) if row < len(uids) and uids[row] == uid else None

    def rows_of_chunks(self, uids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which of some chunks are here, and the rows of those."""
        return _find(self.uids, uids)

    def rows_of_files(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Which of some files are here, and the rows of those."""
        return _find(self.files["id"], ids)

    def alive(self, dead: frozenset[int]) -> NDArray[np.bool_]:
        """For each file, whether it is still there."""
        mask = np.ones(len(self.files["id"]), dtype=np.bool_)
        if dead:
            _, rows = self.rows_of_files(np.fromiter(dead, dtype=np.int64, count=len(dead)))
            mask[rows] = False
        return mask

    def find_path(self, path: str) -> list[int]:
        """Rows of files at a path; dead ones among them."""
        return self._paths.find(name_bytes(path))

    def find_blob(self, blob: str) -> list[int]:
        """Rows of files with a content that were not left out; dead ones among them."""
        return [row for row in self._blobs.find(packed_blob(blob)) if not self.files["reason"][row]]

    def path(self, row: int) -> str:
        """A file's path."""
        return self._paths.text(row)

    def blob(self, row: int) -> str:
        """A file's hash."""
        return _unpacked_blob(self._blobs[row])

    def all_paths(self) -> list[str]:
        """Every file's path."""
        return [_text(path) for path in self._paths.all()]

    def all_blobs(self) -> list[str]:
        """Every file's hash."""
        return [_unpacked_blob(blob) for blob in self._blobs.all()]

    def language(self, row: int) -> str:
        """A file's language."""
        return self.languages[self._language_of_file[row]]

    def reason(self, row: int) -> str:
        """Why a file was left out; ``""`` when it was not."""
        return self.reasons[int(self.files["reason"][row])]

    def chunk_range(self, row: int) -> tuple[int, int]:
        """Rows of a file's chunks, end exclusive."""
        first = self.files["chunk"]
        return int(first[row]), int(first[row + 1])

    def chunk(self, row: int) -> ChunkRow:
        """A chunk without its words."""
        columns = self._chunk_numbers
        return ChunkRow(
            start_line=columns["start"][row],
            end_line=columns["end"][row],
            symbol=self._symbol_of_chunk(row),
            kind=self.kinds[columns["kind"][row]],
            kinds=tuple(self.kind_sets[columns["kinds"][row]].split()),
            defines=bool(columns["defines"][row]),
            fields={},
        )

    def stored_chunk(self, row: int, file_row: int, lines: Lines) -> StoredChunk:
        """A chunk of a file, whose lines are given, with its text."""
        columns = self._chunk_numbers
        start, end = columns["start"][row], columns["end"][row]
        return StoredChunk(
            columns["uid"][row],
            self.path(file_row),
            self.language(file_row),
            start,
            end,
            self._symbol_of_chunk(row),
            self.kinds[columns["kind"][row]],
            bool(columns["defines"][row]),
            lines.between(start, end),
        )

    def _symbol_of_chunk(self, row: int) -> str:
        parent, symbol = self._chunk_numbers["parent"][row], self._chunk_numbers["symbol"][row]
        name = self._name(symbol) if symbol else ""
        return f"{self._name(parent)}.{name}" if parent else name

    def symbols(self, row: int, first_line: int = 1, last_line: int | None = None) -> list[SymbolRow]:
        """A file's definitions that begin between two lines, in order."""
        first = self.files["symbol"]
        begin, end = int(first[row]), int(first[row + 1])
        starts = self._symbols["start"]
        if last_line is not None:
            end = bisect_right(starts, last_line, begin, end)
        if first_line > 1:
            begin = bisect_left(starts, first_line, begin, end)
        return [self.symbol(at) for at in range(begin, end)]

    def symbol(self, at: int) -> SymbolRow:
        """A definition."""
        columns = self._symbols
        return SymbolRow(
            name=self._name(columns["name"][at]),
            kind=self.kinds[columns["kind"][at]],
            start_line=int(columns["start"][at]),
            end_line=int(columns["end"][at]),
            parent=self._name(columns["parent"][at]),
        )

    def definitions(self, name: str) -> list[tuple[int, int, int]]:
        """Row of the file, line and row of the symbol wherever a name is defined; dead files among them."""
        found = self._by_name(self._symbols["name"], self._symbols["by_name"], name)
        lines = self._symbols["start"][found].tolist() if found else []
        return list(zip(_owners(self.files["symbol"], found), lines, found, strict=True))

    def imports(self, row: int) -> list[str]:
        """What a file imports, sorted."""
        first = self.files["import"]
        return sorted(self._name(name) for name in self._columns["import_name"][first[row] : first[row + 1]].tolist())

    def importers(self, name: str) -> list[int]:
        """Rows of files that import a name; dead ones among them."""
        found = self._by_name(self._columns["import_name"], self._columns["import_by_name"], name)
        return _owners(self.files["import"], found)

    def file_row(self, row: int) -> FileRow:
        """A file as it was added, but for its text and the words of its chunks."""
        begin, end = self.chunk_range(row)
        return FileRow(
            path=self.path(row),
            blob=self.blob(row),
            language=self.language(row),
            lines=int(self.files["lines"][row]),
            text="",
            prior=float(self.files["prior"][row]),
            chunks=[self.chunk(at) for at in range(begin, end)],
            symbols=self.symbols(row),
            imports=self.imports(row),
        )

    def packed_text(self, row: int) -> bytes:
        """A file's text as its codec made it."""
        length, offset = int(self._columns["text_length"][row]), int(self._columns["text_offset"][row])
        packed = os.pread(self._pack, length, offset)
        if len(packed) != length:
            raise ValueError(f"expected {length} bytes of text at {offset} of segment {self.name}")
        return packed

    def unpacked_vectors(self, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Vectors of chunks, (n, dimension), unit length but for rounding."""
        return unpack_vectors(self.vectors[rows], self.dimension)

    def similarities(self, rows: NDArray[np.int64], vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Cosine of each of some chunks with a unit vector, (n,)."""
        return similarities(self.vectors.take(rows), vector)

    def candidates(
        self,
        rows: NDArray[np.int64],
        uids: NDArray[np.int64],
        scores: NDArray[np.float32],
        words: Sequence[str],
        vector: NDArray[np.float32] | None,
    ) -> Candidates:
        """What is known of chunks, by their rows; see the port."""
        file_rows = self.file_of_chunk.take(rows)
        stored = self.vectors.take(rows)
        return Candidates(
            uids=uids,
            scores=scores,
            files=self.files["id"].take(file_rows).astype(np.int64),
            priors=self.files["prior"].take(file_rows),
            defines=self.chunks["defines"].take(rows),
            held=held(stored["words"], words),
            similarities=None if vector is None else similarities(stored, vector),
        )

    def _name(self, number: int) -> str:
        return self._names.text(number)

    def _by_name(self, names: NDArray[Any], order: NDArray[Any], name: str) -> list[int]:
        found: list[int] = []
        for number in self._names.find(name_bytes(name)):
            begin, end = (np.searchsorted(names, number, side, sorter=order) for side in ("left", "right"))
            found += order[begin:end].tolist()
        return found


def _prefixed(columns: Any, prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): column for name, column in columns.items() if name.startswith(prefix)}


def _owners(first: NDArray[Any], rows: Sequence[int]) -> list[int]:
    """Rows of the files that some rows belong to; ``first`` has each file's first one."""
    owners: list[int] = (np.searchsorted(first, rows, "right") - 1).tolist()
    return owners


def _find(sorted_ids: NDArray[Any], wanted: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Both ways: a segment that was never merged has its numbers without a gap."""
    count = len(sorted_ids)
    if not count:
        return np.zeros(len(wanted), dtype=np.bool_), np.zeros(0, dtype=np.int64)
    first, last = int(sorted_ids[0]), int(sorted_ids[-1])
    if last - first + 1 == count:
        offsets = wanted - first
        inside: NDArray[np.bool_] = offsets.view(np.uint64) < count  # below 0 is beyond all
        return inside, offsets if inside.all() else offsets[inside]
    rows = np.minimum(np.searchsorted(sorted_ids, wanted), count - 1)
    inside = sorted_ids[rows] == wanted
    return inside, rows[inside]


_open_segments: weakref.WeakValueDictionary[str, Segment] = weakref.WeakValueDictionary()


def open_segment(folder: Path, entry: SegmentEntry) -> Segment:
    """A segment; readers of one process share it, so that a new generation costs them only its news."""
    segment = _open_segments.get(entry.name)
    if segment is None:
        segment = _open_segments[entry.name] = Segment(folder, entry)
    return segment
