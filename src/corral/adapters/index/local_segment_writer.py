"""Writing a segment; ``local_segment`` says what one is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from corral.adapters.index.local_columns import NumbersWriter, Spool, StringsWriter, save_columns
from corral.adapters.index.local_segment import Segment, SegmentEntry, name_bytes, packed_blob
from corral.adapters.index.local_text import PackWriter, TextCodec, VectorsWriter
from corral.adapters.index.port import FileRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HELD_ROWS = 16_384
"""Of files, chunks, definitions and imports together; with what they need a megabyte or two."""
_ROW_BYTES = 28
"""Of a file, a chunk or a definition as it is collected."""
_NAMES_KNOWN = 16_384
"""Names whose numbers are remembered, some 3 MB. One that comes again after that has two numbers, which costs its
length once more and is no error: names are looked for by all their numbers."""


class _Numbers(dict[str, int]):
    """Strings numbered as they are met."""

    def __missing__(self, value: str) -> int:
        number = self[value] = len(self)
        return number


class _Names(dict[str, int]):
    """Names numbered as they are met; ``""`` is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.written = StringsWriter("name")
        self[""]

    def __missing__(self, name: str) -> int:
        if len(self) >= _NAMES_KNOWN:
            self.clear()
            self[""] = 0
        number = self[name] = len(self.written)
        self.written.append(name_bytes(name))
        return number


class SegmentWriter:
    """Collects files; rows, texts and vectors go to the disk as they come, so that it never holds many."""

    def __init__(self, folder: Path, name: str, dimension: int, codec: TextCodec | None) -> None:
        self.name = name
        self._columns_path, vectors, pack = SegmentEntry(name, 0, 0).paths(folder)
        self._dimension = dimension
        self._vectors_file: IO[bytes] = vectors.open("xb")
        self._vectors = VectorsWriter(self._vectors_file, dimension)
        self._pack: IO[bytes] = pack.open("xb")
        self._texts = PackWriter(self._pack, codec)
        self._spool = Spool(folder)
        self._languages, self._kinds, self._kind_sets, self._reasons = _Numbers(), _Numbers(), _Numbers(), _Numbers()
        self._reasons[""] = 0
        self._names = _Names()
        self._paths, self._blobs = StringsWriter("path"), StringsWriter("blob")
        self._files = NumbersWriter(
            "file", id="I", language="I", reason="I", lines="I", chunk="I", symbol="I", prior="f", **{"import": "I"}
        )
        self._chunks = NumbersWriter(
            "chunk", uid="I", start="I", end="I", parent="I", symbol="I", kind="I", kinds="I", defines="B"
        )
        self._symbols = NumbersWriter("symbol", name="I", kind="I", start="I", end="I", parent="I")
        self._imports = NumbersWriter("import", name="I")
        #: How many chunks it has by now.
        self.chunks = 0
        self._symbol_count = self._import_count = self._settled_rows = 0

    @property
    def _rows(self) -> int:
        return len(self._paths) + self.chunks + self._symbol_count + self._import_count

    @property
    def collected_bytes(self) -> int:
        """About how large its columns will be, which are read and sorted one by one when it is finished."""
        return _ROW_BYTES * self._rows + self._paths.bytes + self._blobs.bytes + self._names.written.bytes

    def _settle(self) -> None:
        if self._rows - self._settled_rows < _HELD_ROWS:
            return
        self._settled_rows = self._rows
        for written in self._written():
            written.settle(self._spool)

    def _written(self) -> Sequence[NumbersWriter | StringsWriter]:
        return (
            self._files, self._chunks, self._symbols, self._imports, self._paths, self._blobs, self._names.written,
        )  # fmt: skip

    def add(self, file_id: int, first_uid: int, file: FileRow, vectors: NDArray[np.int8]) -> None:
        """Append a file whose chunks get the numbers from ``first_uid`` on."""
        self._texts.add(file.text.encode("utf-8", "replace"))
        self._vectors.add(vectors, [chunk.different_words() for chunk in file.chunks])
        self._add_rows(file_id, range(first_uid, first_uid + len(file.chunks)), file)

    def skip(self, file_id: int, path: str, blob: str, reason: str) -> None:
        """Append a file that was left out."""
        self._begin_file(file_id, FileRow(path, blob, "", 0, "", 0.0, ()), reason)

    def copy(self, segment: Segment, row: int) -> None:
        """Append a file of another segment under its own numbers; the texts of both have the same codec."""
        file_id, reason = int(segment.files["id"][row]), segment.reason(row)
        if reason:
            self.skip(file_id, segment.path(row), segment.blob(row), reason)
            return
        begin, end = segment.chunk_range(row)
        self._texts.add_packed(segment.packed_text(row))
        self._vectors.add_packed(segment.vectors[begin:end])
        self._add_rows(file_id, segment.uids[begin:end].tolist(), segment.file_row(row))

    def _begin_file(self, file_id: int, file: FileRow, reason: str) -> None:
        self._settle()
        self._paths.append(name_bytes(file.path))
        self._blobs.append(packed_blob(file.blob))
        for name, value in (
            ("id", file_id),
            ("language", self._languages[file.language]),
            ("reason", self._reasons[reason]),
            ("lines", file.lines),
            ("chunk", self.chunks),
            ("symbol", self._symbol_count),
            ("import", self._import_count),
        ):
            self._files.arrays[name].append(value)
        self._files.arrays["prior"].append(file.prior)

    def _add_rows(self, file_id: int, uids: Sequence[int], file: FileRow) -> None:
        self._begin_file(file_id, file, "")
        names, kinds = self._names, self._kinds
        columns = self._chunks.arrays
        for uid, chunk in zip(uids, file.chunks, strict=True):
            parent, _, symbol = chunk.symbol.rpartition(".")
            if not parent:
                symbol = chunk.symbol  # a heading may begin with a dot
            columns["uid"].append(uid)
            columns["start"].append(chunk.start_line)
            columns["end"].append(chunk.end_line)
            columns["parent"].append(names[parent])
            columns["symbol"].append(names[symbol])
            columns["kind"].append(kinds[chunk.kind])
            columns["kinds"].append(self._kind_sets[" ".join(chunk.kinds)])
            columns["defines"].append(chunk.defines)
        self.chunks += len(file.chunks)
        columns = self._symbols.arrays
        distinct = {(one.start_line, one.name, one.kind): one for one in reversed(file.symbols)}
        ordered = list(distinct.values())[::-1]
        for one in sorted(ordered, key=lambda one: one.start_line):
            columns["name"].append(names[one.name])
            columns["kind"].append(kinds[one.kind])
            columns["start"].append(one.start_line)
            columns["end"].append(one.end_line)
            columns["parent"].append(names[one.parent])
        self._symbol_count += len(ordered)
        imports = set(file.imports)
        self._imports.arrays["name"].extend(names[name] for name in sorted(imports))
        self._import_count += len(imports)

    def finish(self) -> tuple[SegmentEntry, TextCodec]:
        """Write what is left, and close."""
        codec = self._texts.finish()
        self._vectors.finish()
        meta = {
            "dimension": self._dimension,
            "languages": list(self._languages),
            "kinds": list(self._kinds),
            "kindSets": list(self._kind_sets),
            "reasons": list(self._reasons),
        }
        save_columns(self._columns_path, self._columns(), meta)
        self.close()
        return SegmentEntry(self.name, len(self._paths), self.chunks), codec

    def _columns(self) -> Iterator[tuple[str, NDArray[Any]]]:
        files, chunks, symbols, imports = (
            partial(written.all, self._spool) for written in (self._files, self._chunks, self._symbols, self._imports)
        )
        for name in ("id", "language", "reason", "lines"):
            yield f"file_{name}", _narrow(files(name))
        for name, end in (("chunk", self.chunks), ("symbol", self._symbol_count), ("import", self._import_count)):
            yield f"file_{name}", _narrow(np.append(files(name), np.uint32(end)))
        yield "file_prior", files("prior")
        has_text = files("reason") == 0
        yield "text_offset", _narrow(_spread(self._texts.offsets, has_text))
        yield "text_length", _narrow(_spread(self._texts.lengths, has_text))
        yield "chunk_defines", chunks("defines").astype(np.bool_)
        for name in ("uid", "start", "end", "parent", "symbol", "kind", "kinds"):
            yield f"chunk_{name}", _narrow(chunks(name))
        for name in ("name", "kind", "start", "end", "parent"):
            yield f"symbol_{name}", _narrow(symbols(name))
        yield "symbol_by_name", _narrow(np.argsort(symbols("name"), kind="stable"))
        yield "import_name", _narrow(imports("name"))
        yield "import_by_name", _narrow(np.argsort(imports("name"), kind="stable"))
        for written in (self._paths, self._blobs, self._names.written):
            yield from written.columns(self._spool)

    def close(self) -> None:
        """Let go of the files."""
        self._spool.close()
        self._vectors_file.close()
        self._pack.close()


def _spread(values: Sequence[int], where: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """One value for each place that is true, in order; 0 elsewhere."""
    spread = np.zeros(len(where), dtype=np.uint64)
    spread[where] = values
    return spread


def _narrow(column: NDArray[Any]) -> NDArray[Any]:
    """As the smallest unsigned type that holds its numbers."""
    largest = int(column.max(initial=0))
    return column.astype(np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else
                         np.uint32 if largest < 1 << 32 else np.uint64)  # fmt: skip
