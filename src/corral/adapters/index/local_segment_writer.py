"""Writing a segment; ``local_segment`` says what one is."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from corral.adapters.index.local_columns import StringsWriter, save_columns
from corral.adapters.index.local_segment import Segment, SegmentEntry, name_bytes, packed_blob
from corral.adapters.index.local_text import PackWriter, TextCodec, VectorsWriter
from corral.adapters.index.port import FileRow

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ROW_BYTES = 28
"""Of a file, a chunk or a definition in memory; measured sizes are 20 to 36."""
_NAME_BYTES = 170
"""Of a name in memory, beside its characters: two objects and their place in the dictionary."""


class _Numbers(dict[str, int]):
    """Strings numbered as they are met."""

    held_bytes = 0
    """About what they take in memory."""

    def __missing__(self, value: str) -> int:
        number = self[value] = len(self)
        self.held_bytes += len(value) + _NAME_BYTES
        return number


class SegmentWriter:
    """Collects files; rows are kept as bare numbers, texts and vectors go to disk at once."""

    def __init__(self, folder: Path, name: str, dimension: int, codec: TextCodec | None) -> None:
        self.name = name
        self._columns_path, vectors, pack = SegmentEntry(name, 0, 0).paths(folder)
        self._dimension = dimension
        self._vectors_file: IO[bytes] = vectors.open("xb")
        self._vectors = VectorsWriter(self._vectors_file, dimension)
        self._pack: IO[bytes] = pack.open("xb")
        self._texts = PackWriter(self._pack, codec)
        self._languages, self._kinds, self._kind_sets, self._reasons = _Numbers(), _Numbers(), _Numbers(), _Numbers()
        self._names = _Numbers()
        self._names[""], self._reasons[""] = 0, 0
        self._paths, self._blobs = StringsWriter(), StringsWriter()
        self._files = {name: array("I") for name in ("id", "language", "reason", "lines", "chunk", "symbol", "import")}
        self._priors = array("f")
        self._chunks = {name: array("I") for name in ("uid", "start", "end", "parent", "symbol", "kind", "kinds")}
        self._defines = array("B")
        self._symbols = {name: array("I") for name in ("name", "kind", "start", "end", "parent")}
        self._imports = array("I")

    @property
    def chunks(self) -> int:
        """How many chunks it has by now."""
        return len(self._defines)

    @property
    def held_bytes(self) -> int:
        """About what it has in memory; texts and vectors are on the disk."""
        rows = len(self._paths) + self.chunks + len(self._symbols["name"])
        strings = self._paths.held_bytes + self._blobs.held_bytes + self._names.held_bytes
        return _ROW_BYTES * rows + strings + self._imports.itemsize * len(self._imports)

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
        self._paths.append(name_bytes(file.path))
        self._blobs.append(packed_blob(file.blob))
        for name, value in (
            ("id", file_id),
            ("language", self._languages[file.language]),
            ("reason", self._reasons[reason]),
            ("lines", file.lines),
            ("chunk", self.chunks),
            ("symbol", len(self._symbols["name"])),
            ("import", len(self._imports)),
        ):
            self._files[name].append(value)
        self._priors.append(file.prior)

    def _add_rows(self, file_id: int, uids: Sequence[int], file: FileRow) -> None:
        self._begin_file(file_id, file, "")
        names, kinds = self._names, self._kinds
        columns = self._chunks
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
            self._defines.append(chunk.defines)
        columns = self._symbols
        distinct = {(one.start_line, one.name, one.kind): one for one in reversed(file.symbols)}
        ordered = list(distinct.values())[::-1]
        for one in sorted(ordered, key=lambda one: one.start_line):
            columns["name"].append(names[one.name])
            columns["kind"].append(kinds[one.kind])
            columns["start"].append(one.start_line)
            columns["end"].append(one.end_line)
            columns["parent"].append(names[one.parent])
        self._imports.extend(names[name] for name in sorted(set(file.imports)))

    def finish(self) -> tuple[SegmentEntry, TextCodec]:
        """Write what is left, and close."""
        codec = self._texts.finish()
        self._vectors.finish()
        self.close()
        names = StringsWriter()
        for name in self._names:
            names.append(name_bytes(name))
        symbol_names = np.array(self._symbols["name"], dtype=np.uint32)
        imported = np.array(self._imports, dtype=np.uint32)
        has_text = np.array(self._files["reason"], dtype=np.uint32) == 0
        columns: dict[str, NDArray[Any]] = {
            "file_id": _narrow(self._files["id"]),
            "file_language": _narrow(self._files["language"]),
            "file_reason": _narrow(self._files["reason"]),
            "file_lines": _narrow(self._files["lines"]),
            "file_chunk": _narrow([*self._files["chunk"], self.chunks]),
            "file_symbol": _narrow([*self._files["symbol"], len(symbol_names)]),
            "file_import": _narrow([*self._files["import"], len(imported)]),
            "file_prior": np.array(self._priors, dtype=np.float32),
            "text_offset": _narrow(_spread(self._texts.offsets, has_text)),
            "text_length": _narrow(_spread(self._texts.lengths, has_text)),
            "chunk_defines": np.array(self._defines, dtype=np.bool_),
            **{f"chunk_{name}": _narrow(column) for name, column in self._chunks.items()},
            **{f"symbol_{name}": _narrow(column) for name, column in self._symbols.items()},
            "symbol_by_name": _narrow(np.argsort(symbol_names, kind="stable")),
            "import_name": _narrow(imported),
            "import_by_name": _narrow(np.argsort(imported, kind="stable")),
            **self._paths.columns("path"),
            **self._blobs.columns("blob"),
            **names.columns("name"),
        }
        meta = {
            "dimension": self._dimension,
            "languages": list(self._languages),
            "kinds": list(self._kinds),
            "kindSets": list(self._kind_sets),
            "reasons": list(self._reasons),
        }
        save_columns(self._columns_path, columns, meta)
        return SegmentEntry(self.name, len(self._paths), self.chunks), codec

    def close(self) -> None:
        """Let go of the files."""
        self._vectors_file.close()
        self._pack.close()


def _spread(values: Sequence[int], where: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """One value for each place that is true, in order; 0 elsewhere."""
    spread = np.zeros(len(where), dtype=np.uint64)
    spread[where] = values
    return spread


def _narrow(values: Iterable[int]) -> NDArray[Any]:
    """As the smallest unsigned type that holds them."""
    column = np.asarray(values, dtype=np.uint64)
    largest = int(column.max(initial=0))
    return column.astype(np.uint8 if largest < 1 << 8 else np.uint16 if largest < 1 << 16 else
                         np.uint32 if largest < 1 << 32 else np.uint64)  # fmt: skip
