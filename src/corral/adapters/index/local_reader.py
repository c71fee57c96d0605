"""Reading one generation of the local index."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tantivy

from corral.adapters.index.local_layout import Manifest, open_words, schema
from corral.adapters.index.local_lines import LineCache
from corral.adapters.index.local_segment import Segment, SegmentEntry, open_segment
from corral.adapters.index.local_text import TextCodec
from corral.adapters.index.port import (
    Candidates,
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

if TYPE_CHECKING:
    from numpy.typing import NDArray

    _Clause = tuple[tantivy.Occur, tantivy.Query]

_FILTERED_LIMIT = 3000
_CLAUSES_KEPT = 8192
_BLOCK = 8192
"""How many vectors are compared at once in a full scan: some 10 MB of numbers."""
_NO_UIDS = np.zeros(0, dtype=np.int64)
_NO_SCORES = np.zeros(0, dtype=np.float32)


@dataclass(frozen=True)
class Part:
    """A segment as one generation sees it."""

    segment: Segment
    entry: SegmentEntry

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """For each file, whether it is still there."""
        return self.segment.alive(self.entry.dead)

    def with_dead(self, dead: Mapping[int, int]) -> Part:
        """With those of some files that are here dead; ``dead`` gives the number of chunks of each."""
        if not dead:
            return self
        ids = np.fromiter(dead, dtype=np.int64, count=len(dead))
        inside, _ = self.segment.rows_of_files(ids)
        here = frozenset(ids[inside].tolist()) - self.entry.dead
        if not here:
            return self
        chunks = self.entry.dead_chunks + sum(dead[file_id] for file_id in here)
        return Part(self.segment, replace(self.entry, dead=self.entry.dead | here, dead_chunks=chunks))

    def all_live(self) -> NDArray[np.int64]:
        """Rows of files that are there, those left out included."""
        return np.flatnonzero(self.alive)

    def live_chunks(self) -> NDArray[np.int64]:
        """Rows of chunks of files that are there."""
        return np.flatnonzero(self.alive[self.segment.file_of_chunk])

    def live(self, rows: Iterable[int]) -> list[int]:
        """Those of some file rows that are there."""
        return [row for row in rows if self.alive[row]]


class LocalIndexReader:
    """One generation, open. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        manifest = Manifest.load(folder)
        manifest.check(folder)
        self._state = manifest.state
        self.manifest = manifest
        self.parts = [Part(open_segment(folder, entry), entry) for entry in manifest.segments]
        self.codec = TextCodec((folder / manifest.dictionary).read_bytes() if manifest.dictionary else b"")
        self._lines = LineCache()
        self._searcher = open_words(folder / "words").searcher()
        self._clauses: dict[tuple[str, str, float], _Clause | None] = {}

    @property
    def state(self) -> IndexState:
        """What is open."""
        return self._state

    def candidates(self, query: LexicalQuery, limit: int) -> Candidates:
        """The best chunks by words."""
        clauses = [self._clause(field, word, weight) for field, words in query.terms.items() for word, weight in words]
        should = [clause for clause in clauses if clause is not None]
        if not should:
            return self._candidates(_NO_UIDS, _NO_SCORES, query.words, query.vector)
        combined = tantivy.Query.boolean_query(should)
        if query.filters:
            combined = tantivy.Query.boolean_query([(tantivy.Occur.Must, combined), *self._musts(query.filters)])
        return self._candidates(*self._run(combined, limit), query.words, query.vector)

    def _clause(self, field: str, word: str, weight: float) -> _Clause | None:
        """A word to look for in a field; None when no chunk has it. Questions share most of their words."""
        key = (field, word, weight)
        try:
            return self._clauses[key]
        except KeyError:
            if len(self._clauses) >= _CLAUSES_KEPT:
                self._clauses.clear()
            clause: _Clause | None = None
            if self._searcher.doc_freq(field, word):
                query = tantivy.Query.term_query(schema(), field, word, "freq")
                clause = tantivy.Occur.Should, tantivy.Query.boost_query(query, weight)
            self._clauses[key] = clause
            return clause

    def _musts(self, filters: Filters) -> list[tuple[tantivy.Occur, tantivy.Query]]:
        musts: list[tuple[tantivy.Occur, tantivy.Query]] = []
        for field, values in (("language", filters.languages), ("kinds", filters.kinds)):
            if values:
                query = tantivy.Query.term_set_query(schema(), field, sorted(values))
                musts.append((tantivy.Occur.Must, tantivy.Query.const_score_query(query, 0.0)))
        if filters.paths:
            allowed = self._files_matching(filters.paths)
            query = tantivy.Query.term_set_query(schema(), "file", allowed) if allowed else tantivy.Query.empty_query()
            musts.append((tantivy.Occur.Must, tantivy.Query.const_score_query(query, 0.0)))
        return musts

    def _files_matching(self, patterns: Sequence[str]) -> list[int]:
        return [
            int(part.segment.files["id"][row])
            for part in self.parts
            for row, path in enumerate(part.segment.all_paths())
            if part.alive[row] and any(path_fits(path, pattern) for pattern in patterns)
        ]

    def _run(self, query: tantivy.Query, limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best chunks and their scores."""
        hits = self._searcher.search(query, limit, count=False).hits
        if not hits:
            return _NO_UIDS, _NO_SCORES
        scores, addresses = zip(*hits, strict=True)
        uids = self._searcher.fast_field_values("uid", list(addresses))
        return np.fromiter(uids, np.int64, len(uids)), np.fromiter(scores, np.float32, len(scores))

    def _candidates(
        self,
        uids: NDArray[np.int64],
        scores: NDArray[np.float32],
        words: Sequence[str],
        vector: NDArray[np.float32] | None,
    ) -> Candidates:
        """What is known of chunks, which are looked up once for all of it."""
        known: list[tuple[NDArray[np.bool_], Candidates]] = []
        for part in self.parts:
            inside, rows = part.segment.rows_of_chunks(uids)
            if len(rows) == len(uids):
                return part.segment.candidates(rows, uids, scores, words, vector)
            if len(rows):
                known.append((inside, part.segment.candidates(rows, uids[inside], scores[inside], words, vector)))
        return _joined(uids, scores, len(words), vector, known)

    def nearest(
        self, vector: NDArray[np.float32], limit: int, filters: Filters, words: Sequence[str] = ()
    ) -> Candidates:
        """The nearest chunks, by an exact scan of the live ones."""
        uids, scores = _NO_UIDS, _NO_SCORES
        for part_uids, part_scores in self._compared(vector, filters):
            uids, scores = np.concatenate([uids, part_uids]), np.concatenate([scores, part_scores])
        best = np.argsort(-scores, kind="stable")[:limit]
        return self._candidates(uids[best], scores[best], words, vector)

    def _compared(
        self, vector: NDArray[np.float32], filters: Filters
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Chunks of each part with their cosines, some thousand at a time."""
        allowed = None
        if filters:
            musts = [(tantivy.Occur.Must, tantivy.Query.all_query()), *self._musts(filters)]
            allowed = self._run(tantivy.Query.boolean_query(musts), _FILTERED_LIMIT)[0]
        for part in self.parts:
            segment = part.segment
            rows = part.live_chunks() if allowed is None else segment.rows_of_chunks(allowed)[1]
            for block in np.array_split(rows, len(rows) // _BLOCK + 1):
                yield segment.uids.take(block).astype(np.int64), segment.similarities(block, vector)

    def vectors(self, uids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of chunks, unit length but for rounding."""
        out = np.zeros((len(uids), self._state.dimension), dtype=np.float32)
        for part in self.parts:
            inside, rows = part.segment.rows_of_chunks(uids)
            if len(rows):
                out[inside] = part.segment.unpacked_vectors(rows)
        return out

    def chunks(self, uids: Sequence[int]) -> list[StoredChunk]:
        """Chunks with their text, in the order asked."""
        found = []
        for uid in uids:
            for part in self.parts:
                place = part.segment.place_of_chunk(uid)
                if place is not None and part.alive[place[1]]:
                    found.append(self._chunk(part.segment, *place))
                    break
        return found

    def _chunk(self, segment: Segment, row: int, file_row: int) -> StoredChunk:
        key = (segment.name, file_row)
        lines = self._lines.get(key) or self._lines.keep(key, self._bytes(segment, file_row))
        return segment.stored_chunk(row, file_row, lines)

    def _text(self, segment: Segment, file_row: int) -> str:
        return self._bytes(segment, file_row).decode("utf-8", "replace")

    def _bytes(self, segment: Segment, file_row: int) -> bytes:
        return self.codec.decompress(segment.packed_text(file_row))

    def paths(self, file_ids: Sequence[int]) -> dict[int, str]:
        """File id to path."""
        wanted = np.array(file_ids, dtype=np.int64)
        found: dict[int, str] = {}
        for part in self.parts:
            inside, rows = part.segment.rows_of_files(wanted)
            found.update(zip(wanted[inside].tolist(), map(part.segment.path, rows.tolist()), strict=True))
        return found

    def _at(self, path: str) -> tuple[Segment, int] | None:
        """Where a path is, skipped or not."""
        for part in reversed(self.parts):
            for row in part.live(part.segment.find_path(path)):
                return part.segment, row
        return None

    def _indexed_at(self, path: str) -> tuple[Segment, int] | None:
        found = self._at(path)
        return None if found is None or found[0].reason(found[1]) else found

    def file(self, path: str) -> StoredFile | None:
        """One file, or None."""
        found = self._indexed_at(path)
        if found is None:
            return None
        segment, row = found
        file_id, lines = (int(segment.files[name][row]) for name in ("id", "lines"))
        return StoredFile(file_id, path, segment.blob(row), segment.language(row), lines)

    def file_chunks(self, path: str) -> list[StoredChunk]:
        """All chunks of a file in order."""
        found = self._indexed_at(path)
        if found is None:
            return []
        segment, row = found
        return [self._chunk(segment, at, row) for at in range(*segment.chunk_range(row))]

    def files(self) -> dict[str, str]:
        """Path to blob of all files, those skipped included."""
        return {
            path: blob
            for part in self.parts
            for path, blob, alive in zip(
                part.segment.all_paths(), part.segment.all_blobs(), part.alive.tolist(), strict=True
            )
            if alive
        }

    def blob_of(self, path: str) -> str | None:
        """The blob of one file, skipped or not."""
        found = self._at(path)
        return found[0].blob(found[1]) if found else None

    def skipped(self, reason: str) -> frozenset[str]:
        """Paths that were left out for one reason."""
        return frozenset(
            part.segment.path(row)
            for part in self.parts
            if reason in part.segment.reasons
            for row in part.live(
                np.flatnonzero(part.segment.files["reason"] == part.segment.reasons.index(reason)).tolist()
            )
        )

    def symbols_of(self, path: str, first_line: int = 1, last_line: int | None = None) -> list[StoredSymbol]:
        """Definitions in one file that begin between two lines, in order."""
        found = self._indexed_at(path)
        if found is None:
            return []
        segment, row = found
        return [_stored(path, symbol) for symbol in segment.symbols(row, first_line, last_line)]

    def definitions(self, name: str, limit: int = 50) -> list[StoredSymbol]:
        """Where a name is defined."""
        places = [
            (part.segment.path(row), line, at, part.segment)
            for part in self.parts
            for row, line, at in part.segment.definitions(name)
            if part.alive[row]
        ]
        # A name like ``__init__`` is defined a thousand times: only those that are asked for are read.
        places.sort(key=itemgetter(0, 1, 2))
        return [_stored(path, segment.symbol(at)) for path, _, at, segment in places[:limit]]

    def imports_of(self, path: str) -> list[str]:
        """What one file imports."""
        found = self._indexed_at(path)
        return found[0].imports(found[1]) if found else []

    def importers(self, names: Iterable[str]) -> list[str]:
        """Paths of files that import one of these names."""
        wanted = list(names)
        return sorted(
            {
                part.segment.path(row)
                for part in self.parts
                for name in wanted
                for row in part.live(part.segment.importers(name))
            }
        )

    def reusable(self, blob: str, language: str) -> Reusable | None:
        """What is known of a content in one language, wherever it lies."""
        for part in reversed(self.parts):
            for row in part.live(part.segment.find_blob(blob)):
                if part.segment.language(row) == language:
                    return self._reusable(part.segment, row)
        return None

    def _reusable(self, segment: Segment, row: int) -> Reusable:
        file = segment.file_row(row)
        vectors = segment.unpacked_vectors(slice(*segment.chunk_range(row)))
        return Reusable(
            text=self._text(segment, row),
            lines=file.lines,
            chunks=file.chunks,
            symbols=file.symbols,
            imports=file.imports,
            vectors=np.rint(vectors * 127).astype(np.int8),
        )

    def close(self) -> None:
        """Let go of files and memory."""
        self.parts = []
        self._lines.clear()


def _stored(path: str, symbol: SymbolRow) -> StoredSymbol:
    return StoredSymbol(path, symbol.name, symbol.kind, symbol.start_line, symbol.end_line, symbol.parent)


def _joined(
    uids: NDArray[np.int64],
    scores: NDArray[np.float32],
    words: int,
    vector: NDArray[np.float32] | None,
    known: Sequence[tuple[NDArray[np.bool_], Candidates]],
) -> Candidates:
    """What several parts know, each of the chunks that are inside it, in the order of ``uids``."""
    count = len(uids)
    joined = Candidates(
        uids=uids,
        scores=scores,
        files=np.zeros(count, dtype=np.int64),
        priors=np.zeros(count, dtype=np.float32),
        defines=np.zeros(count, dtype=np.bool_),
        held=np.zeros((count, words), dtype=np.bool_),
        similarities=None if vector is None else np.zeros(count, dtype=np.float32),
    )
    for inside, part in known:
        joined.files[inside] = part.files
        joined.priors[inside] = part.priors
        joined.defines[inside] = part.defines
        joined.held[inside] = part.held
        if joined.similarities is not None:
            joined.similarities[inside] = part.similarities
    return joined
