"""Reading one generation of the local index."""

from __future__ import annotations

import os
import sqlite3
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import tantivy

from corral.adapters.index.local_layout import Manifest, open_words
from corral.adapters.index.local_lines import LineCache
from corral.adapters.index.port import (
    Candidates,
    ChunkRow,
    Filters,
    IndexState,
    LexicalQuery,
    Reusable,
    StoredChunk,
    StoredFile,
    StoredSymbol,
    SymbolRow,
    path_fits,
)
from corral.adapters.index.signature import SIGNATURE_BYTES, held

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FILTERED_LIMIT = 3000


class LocalIndexReader:
    """One generation, open. Threads may share it: SQLite's connection is used under its own lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        manifest = Manifest.load(folder / "manifest.json")
        self._state = manifest.state
        self._columns: NDArray[Any] = np.load(folder / "columns.npy", mmap_mode="r")
        dimension = manifest.state.dimension
        self._segments: list[tuple[int, NDArray[np.int8]]] = [
            (first, np.memmap(folder / file, dtype=np.int8, mode="r", shape=(rows, dimension + SIGNATURE_BYTES)))
            for file, first, rows in manifest.vectors
            if rows
        ]
        self._sqlite = sqlite3.connect(
            f"file:{_uri(folder / 'catalogue.sqlite')}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        self._packs: dict[str, IO[bytes]] = {}
        self._lines = LineCache()
        self._index = open_words(folder / "words")
        self._schema = self._index.schema
        self._searcher = self._index.searcher()

    @property
    def state(self) -> IndexState:
        """What is open."""
        return self._state

    def candidates(self, query: LexicalQuery, limit: int) -> Candidates:
        """The best chunks by words."""
        term, boost = tantivy.Query.term_query, tantivy.Query.boost_query
        schema = self._schema
        should = [
            (tantivy.Occur.Should, boost(term(schema, field, word, "freq"), weight))
            for field, words in query.terms.items()
            for word, weight in words
        ]
        if not should:
            return _no_candidates()
        combined = tantivy.Query.boolean_query(should)
        if query.filters:
            combined = tantivy.Query.boolean_query([(tantivy.Occur.Must, combined), *self._musts(query.filters)])
        return self._run(combined, limit)

    def _musts(self, filters: Filters) -> list[tuple[tantivy.Occur, tantivy.Query]]:
        musts: list[tuple[tantivy.Occur, tantivy.Query]] = []
        for field, values in (("language", filters.languages), ("kinds", filters.kinds)):
            if values:
                query = tantivy.Query.term_set_query(self._schema, field, sorted(values))
                musts.append((tantivy.Occur.Must, tantivy.Query.const_score_query(query, 0.0)))
        if filters.paths:
            allowed = self._files_matching(filters.paths)
            query = tantivy.Query.term_set_query(self._schema, "file", allowed) if allowed else _nothing()
            musts.append((tantivy.Occur.Must, tantivy.Query.const_score_query(query, 0.0)))
        return musts

    def _files_matching(self, patterns: Sequence[str]) -> list[int]:
        return [
            file_id
            for file_id, path in self._sqlite.execute("SELECT id, path FROM files")
            if any(path_fits(path, pattern) for pattern in patterns)
        ]

    def _run(self, query: tantivy.Query, limit: int) -> Candidates:
        hits = self._searcher.search(query, limit, count=False).hits
        if not hits:
            return _no_candidates()
        uids = np.array(self._searcher.fast_field_values("uid", [address for _, address in hits]), dtype=np.int64)
        return self._candidates(uids, np.array([score for score, _ in hits], dtype=np.float32))

    def _candidates(self, uids: NDArray[np.int64], scores: NDArray[np.float32]) -> Candidates:
        columns = self._columns[uids]
        return Candidates(
            uids=uids,
            scores=scores,
            files=columns["file"].astype(np.int64),
            priors=columns["prior"],
            defines=columns["defines"].astype(np.bool_),
        )

    def nearest(self, vector: NDArray[np.float32], limit: int, filters: Filters) -> Candidates:
        """The nearest chunks, by an exact scan of the live ones."""
        base = tantivy.Query.all_query()
        if filters:
            musts = [(tantivy.Occur.Must, base), *self._musts(filters)]
            live = self._run(tantivy.Query.boolean_query(musts), _FILTERED_LIMIT).uids
        else:
            rows = self._sqlite.execute("SELECT uid FROM chunks").fetchall()
            live = np.fromiter((uid for (uid,) in rows), dtype=np.int64, count=len(rows))
        if not len(live):
            return _no_candidates()
        scores = np.concatenate([self.vectors(part) @ vector for part in np.array_split(live, len(live) // 8192 + 1)])
        best = np.argsort(-scores, kind="stable")[:limit]
        return self._candidates(live[best], scores[best].astype(np.float32))

    def vectors(self, uids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of chunks, unit length but for rounding."""
        out = np.zeros((len(uids), self._state.dimension), dtype=np.float32)
        for first, rows in self._segments:
            inside = (uids >= first) & (uids < first + len(rows))
            if inside.all():
                return rows[uids - first, : self._state.dimension].astype(np.float32) / np.float32(127)
            if inside.any():
                out[inside] = rows[uids[inside] - first, : self._state.dimension]
        return out / np.float32(127)

    def held(self, uids: NDArray[np.int64], words: Sequence[str]) -> NDArray[np.bool_]:
        """Which words each chunk holds, with some wrong yes."""
        signatures = np.zeros((len(uids), SIGNATURE_BYTES), dtype=np.uint8)
        for first, rows in self._segments:
            inside = (uids >= first) & (uids < first + len(rows))
            if inside.any():
                signatures[inside] = rows[uids[inside] - first, self._state.dimension :].view(np.uint8)
        return held(signatures, words)

    def chunks(self, uids: Sequence[int]) -> list[StoredChunk]:
        """Chunks with their text, in the order asked."""
        marks = ",".join("?" * len(uids))
        rows = self._sqlite.execute(_CHUNK_SELECT + f"WHERE c.uid IN ({marks})", tuple(map(int, uids))).fetchall()
        found = {row[0]: self._chunk(row) for row in rows}
        return [found[uid] for uid in uids if uid in found]

    def _chunk(self, row: tuple[Any, ...]) -> StoredChunk:
        uid, path, language, start, end, symbol, kind, defines, *place = row
        text = self._lines.lines(tuple(place), lambda: self._bytes(*place), start, end)
        return StoredChunk(uid, path, language, start, end, symbol, kind, bool(defines), text)

    def _text(self, pack: str, offset: int, length: int) -> str:
        return self._bytes(pack, offset, length).decode("utf-8", "replace")

    def _bytes(self, pack: str, offset: int, length: int) -> bytes:
        file = self._packs.get(pack)
        if file is None:
            opened = (self._folder / pack).open("rb")
            file = self._packs.setdefault(pack, opened)
            if file is not opened:  # another thread was here first
                opened.close()
        return zlib.decompress(os.pread(file.fileno(), length, offset))

    def paths(self, file_ids: Sequence[int]) -> dict[int, str]:
        """File id to path."""
        marks = ",".join("?" * len(file_ids))
        return dict(
            self._sqlite.execute(f"SELECT id, path FROM files WHERE id IN ({marks})", tuple(map(int, file_ids)))  # noqa: S608 - marks only
        )

    def file(self, path: str) -> StoredFile | None:
        """One file, or None."""
        row = self._sqlite.execute(
            "SELECT id, path, blob, language, lines FROM files WHERE path = ?", (path,)
        ).fetchone()
        return StoredFile(*row) if row else None

    def file_chunks(self, path: str) -> list[StoredChunk]:
        """All chunks of a file in order."""
        rows = self._sqlite.execute(_CHUNK_SELECT + "WHERE f.path = ? ORDER BY c.uid", (path,)).fetchall()
        return [self._chunk(row) for row in rows]

    def files(self) -> dict[str, str]:
        """Path to blob of all files, those skipped included."""
        return _known(self._sqlite)

    def blob_of(self, path: str) -> str | None:
        """The blob of one file, skipped or not."""
        row = self._sqlite.execute(
            "SELECT blob FROM files WHERE path = ?1 UNION ALL SELECT blob FROM skipped WHERE path = ?1", (path,)
        ).fetchone()
        return row[0] if row else None

    def skipped(self, reason: str) -> frozenset[str]:
        """Paths that were left out for one reason."""
        return frozenset(
            path for (path,) in self._sqlite.execute("SELECT path FROM skipped WHERE reason = ?", (reason,))
        )

    def symbols_of(self, path: str) -> list[StoredSymbol]:
        """Definitions in one file, in order."""
        return self._symbols("WHERE f.path = ? ORDER BY s.start_line", (path,))

    def definitions(self, name: str, limit: int = 50) -> list[StoredSymbol]:
        """Where a name is defined."""
        return self._symbols("WHERE s.name = ? ORDER BY f.path, s.start_line LIMIT ?", (name, limit))

    def _symbols(self, where: str, values: tuple[Any, ...]) -> list[StoredSymbol]:
        rows = self._sqlite.execute(_SYMBOL_SELECT + where, values)
        return [StoredSymbol(*row) for row in rows]

    def imports_of(self, path: str) -> list[str]:
        """What one file imports."""
        rows = self._sqlite.execute(
            "SELECT i.name FROM imports i JOIN files f ON f.id = i.file WHERE f.path = ? ORDER BY i.name", (path,)
        )
        return [name for (name,) in rows]

    def importers(self, names: Iterable[str]) -> list[str]:
        """Paths of files that import one of these names."""
        wanted = tuple(names)
        marks = ",".join("?" * len(wanted))
        rows = self._sqlite.execute(
            "SELECT DISTINCT f.path FROM imports i JOIN files f ON f.id = i.file "  # noqa: S608 - marks only
            f"WHERE i.name IN ({marks}) ORDER BY f.path",
            wanted,
        )
        return [path for (path,) in rows]

    def reusable(self, blob: str) -> Reusable | None:
        """What is known of a content, wherever it lies."""
        file = self._sqlite.execute(
            "SELECT id, lines, pack, offset, length, first_uid, chunk_count FROM files WHERE blob = ? LIMIT 1", (blob,)
        ).fetchone()
        if file is None:
            return None
        file_id, lines, pack, offset, length, first_uid, count = file
        chunks = [
            ChunkRow(start, end, symbol, kind, tuple(kinds.split()), bool(defines), {})
            for start, end, symbol, kind, kinds, defines in self._sqlite.execute(
                "SELECT start_line, end_line, symbol, kind, kinds, defines FROM chunks "
                "WHERE uid >= ? AND uid < ? ORDER BY uid",
                (first_uid, first_uid + count),
            )
        ]
        symbols = [
            SymbolRow(*row)
            for row in self._sqlite.execute(
                "SELECT name, kind, start_line, end_line, parent FROM symbols WHERE file = ? ORDER BY start_line",
                (file_id,),
            )
        ]
        imports = [name for (name,) in self._sqlite.execute("SELECT name FROM imports WHERE file = ?", (file_id,))]
        vectors = np.rint(self.vectors(np.arange(first_uid, first_uid + count)) * 127).astype(np.int8)
        return Reusable(self._text(pack, offset, length), lines, chunks, symbols, imports, vectors)

    def close(self) -> None:
        """Let go of files and memory."""
        self._sqlite.close()
        for file in self._packs.values():
            file.close()
        self._packs.clear()


_SYMBOL_SELECT = (
    "SELECT f.path, s.name, s.kind, s.start_line, s.end_line, s.parent FROM symbols s JOIN files f ON f.id = s.file "
)
_CHUNK_SELECT = (  # completed with conditions of this module's own
    "SELECT c.uid, f.path, f.language, c.start_line, c.end_line, c.symbol, c.kind, c.defines, "
    "f.pack, f.offset, f.length "
    "FROM chunks c JOIN files f ON f.id = c.file "
)


def _known(sqlite: sqlite3.Connection) -> dict[str, str]:
    known: dict[str, str] = dict(sqlite.execute("SELECT path, blob FROM files"))
    known.update(sqlite.execute("SELECT path, blob FROM skipped"))
    return known


def _no_candidates() -> Candidates:
    empty = np.zeros(0)
    whole = empty.astype(np.int64)
    return Candidates(whole, empty.astype(np.float32), whole, empty.astype(np.float32), empty.astype(np.bool_))


def _nothing() -> tantivy.Query:
    return tantivy.Query.empty_query()


def _uri(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
