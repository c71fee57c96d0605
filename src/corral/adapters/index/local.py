"""The index store on a worker's own disk: Tantivy for words, SQLite for the catalogue, flat files for vectors and text.

::

    <root>/<project>/<branch>/
        LOCK            held (flock) by the one writer
        CURRENT         number of the published generation
        g-00000007/     one generation; never changed once published
            manifest.json       what it is and which segment files it has
            catalogue.sqlite    files, chunks, symbols, imports, what was skipped
            columns.npy         per chunk: file, prior, defines (by uid)
            vectors-*.bin       int8 rows by uid, immutable segments
            text-*.pack         files' texts, each compressed, immutable segments
            words/              Tantivy

A new generation is a folder of hard links to the old one's immutable files, plus copies of the small mutable ones. It
is published by replacing ``CURRENT``. So a search never sees half an index, a killed writer leaves a folder that the
next one sweeps away, and a new branch costs links instead of bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sqlite3
import time
import uuid
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from corral.adapters.index.port import (
    FIELDS,
    Candidates,
    ChunkRow,
    FileRow,
    Filters,
    IndexName,
    IndexState,
    LexicalQuery,
    Reusable,
    StoredChunk,
    StoredFile,
    StoredSymbol,
    SymbolRow,
    path_fits,
)
from corral.errors import ExtraMissing, SearchFailed

try:
    import numpy as np
    import tantivy
except ImportError as missing:
    raise ExtraMissing("codebase indexing needs the 'index' extra: pip install 'corral[index]'") from missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FORMAT = 1
_HEAP_BYTES = 48_000_000
_SMALL_HEAP_BYTES = 15_000_000  # Tantivy's least
_MAX_SEGMENTS = 8
_OPEN_TRIES = 5
_IMMUTABLE = (".bin", ".pack")
_COLUMNS = np.dtype([("file", "<i4"), ("prior", "<f4"), ("defines", "u1")])
_FILTERED_LIMIT = 3000
_KEPT_TEXTS = 256
_SCHEMA = """
CREATE TABLE files(id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, blob TEXT NOT NULL, language TEXT NOT NULL,
    lines INTEGER NOT NULL, pack TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL,
    first_uid INTEGER NOT NULL, chunk_count INTEGER NOT NULL);
CREATE TABLE chunks(uid INTEGER PRIMARY KEY, file INTEGER NOT NULL, start_line INTEGER NOT NULL,
    end_line INTEGER NOT NULL, symbol TEXT NOT NULL, kind TEXT NOT NULL, kinds TEXT NOT NULL, defines INTEGER NOT NULL);
CREATE TABLE symbols(file INTEGER NOT NULL, start_line INTEGER NOT NULL, name TEXT NOT NULL, kind TEXT NOT NULL,
    end_line INTEGER NOT NULL, parent TEXT NOT NULL, PRIMARY KEY(file, start_line, name, kind)) WITHOUT ROWID;
CREATE TABLE imports(file INTEGER NOT NULL, name TEXT NOT NULL, PRIMARY KEY(file, name)) WITHOUT ROWID;
CREATE TABLE skipped(path TEXT PRIMARY KEY, blob TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX files_blob ON files(blob);
CREATE INDEX symbols_name ON symbols(name);
CREATE INDEX imports_name ON imports(name);
"""


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    for name in FIELDS:
        builder.add_text_field(name, tokenizer_name="spaces", index_option="freq")
    builder.add_text_field("language", tokenizer_name="raw", index_option="basic")
    builder.add_text_field("kinds", tokenizer_name="spaces", index_option="basic")
    builder.add_integer_field("file", indexed=True)
    builder.add_integer_field("uid", fast=True)
    return builder.build()


def _open_words(folder: Path, *, create: bool = False) -> tantivy.Index:
    index = tantivy.Index(_schema(), path=str(folder)) if create else tantivy.Index.open(str(folder))
    index.register_tokenizer("spaces", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
    return index


@dataclass(frozen=True, slots=True)
class _Manifest:
    state: IndexState
    #: (file name, first uid, rows) of each vector segment.
    vectors: tuple[tuple[str, int, int], ...]
    next_uid: int

    def dump(self) -> str:
        state = self.state
        return json.dumps(
            {
                "format": _FORMAT,
                "generation": state.generation,
                "identity": state.identity,
                "commit": state.commit,
                "embedder": state.embedder,
                "dimension": state.dimension,
                "files": state.files,
                "chunks": state.chunks,
                "languages": dict(state.languages),
                "skipped": dict(state.skipped),
                "notes": dict(state.notes),
                "vectors": self.vectors,
                "nextUid": self.next_uid,
            },
            indent=1,
        )

    @classmethod
    def load(cls, path: Path) -> _Manifest:
        raw = json.loads(path.read_text())
        if raw["format"] != _FORMAT:
            raise ValueError(f"expected index format {_FORMAT}, got {raw['format']!r}")
        state = IndexState(
            generation=raw["generation"],
            identity=raw["identity"],
            commit=raw["commit"],
            embedder=raw["embedder"],
            dimension=raw["dimension"],
            files=raw["files"],
            chunks=raw["chunks"],
            languages=raw["languages"],
            skipped=raw["skipped"],
            notes=raw["notes"],
        )
        vectors = tuple((str(name), int(first), int(rows)) for name, first, rows in raw["vectors"])
        return cls(state, vectors, raw["nextUid"])


class LocalIndexStore:
    """Indexes under one folder of this machine; any number of processes may share it."""

    def __init__(self, root: Path, *, lock_timeout: timedelta = timedelta(minutes=10)) -> None:
        self._root = root
        self._lock_timeout = lock_timeout

    def folder(self, name: IndexName) -> Path:
        """Where an index is kept."""
        return self._root / _safe(name.project_id) / _safe(name.branch or "@default")

    def current(self, name: IndexName) -> int | None:
        """Number of the published generation."""
        try:
            with (self.folder(name) / "CURRENT").open("rb") as file:
                return int(file.read(32))
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None

    def open(self, name: IndexName) -> LocalIndexReader | None:
        """The published generation; None when there is none."""
        for attempt in range(_OPEN_TRIES):
            generation = self.current(name)
            if generation is None:
                return None
            folder = self.folder(name) / _generation_name(generation)
            try:
                return LocalIndexReader(folder)
            except (OSError, ValueError, KeyError, sqlite3.Error) as error:
                # A writer may have published twice since CURRENT was read, and swept this generation away.
                if attempt == _OPEN_TRIES - 1 or self.current(name) == generation:
                    raise SearchFailed(
                        f"the index of project {name.project_id!r} can't be read ({error}); index it again",
                        service="index",
                        operation="open",
                        retryable=False,
                        reason="index_unreadable",
                    ) from error
        return None

    def writer(
        self, name: IndexName, *, identity: str, embedder: str, dimension: int, fresh: bool = False
    ) -> LocalIndexWriter:
        """Begin a generation; see the port."""
        folder = self.folder(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = _lock(folder / "LOCK", self._lock_timeout)
        except OSError as error:
            raise _disk_failed("lock", error) from error
        try:
            base = None if fresh else self._base(name, identity)
            new = max(self.current(name) or 0, _newest(folder)) + 1
            return LocalIndexWriter(
                folder,
                lock=lock,
                generation=new,
                base=base,
                identity=identity,
                embedder=embedder,
                dimension=dimension,
            )
        except BaseException as error:
            lock.close()
            if isinstance(error, OSError | sqlite3.Error | ValueError):
                raise _disk_failed("begin", error) from error
            raise

    def remove(self, project_id: str) -> None:
        """Forget all indexes of a project."""
        shutil.rmtree(self._root / _safe(project_id), ignore_errors=True)

    def _base(self, name: IndexName, identity: str) -> Path | None:
        own = self._usable(self.folder(name), identity)
        if own is not None:
            return own
        project = self._root / _safe(name.project_id)
        siblings = [path for path in project.iterdir() if path != self.folder(name)]
        usable = [path for path in (self._usable(sibling, identity) for sibling in siblings) if path is not None]
        return max(usable, key=lambda path: path.stat().st_mtime, default=None)

    @staticmethod
    def _usable(folder: Path, identity: str) -> Path | None:
        try:
            generation = folder / _generation_name(int((folder / "CURRENT").read_text()))
            if _Manifest.load(generation / "manifest.json").state.identity == identity:
                return generation
        except (OSError, ValueError, KeyError):
            pass
        return None


class LocalIndexReader:
    """One generation, open. Threads may share it: SQLite's connection is used under its own lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        manifest = _Manifest.load(folder / "manifest.json")
        self._state = manifest.state
        self._columns: NDArray[Any] = np.load(folder / "columns.npy", mmap_mode="r")
        dimension = manifest.state.dimension
        self._segments: list[tuple[int, NDArray[np.int8]]] = [
            (first, np.memmap(folder / file, dtype=np.int8, mode="r", shape=(rows, dimension)))
            for file, first, rows in manifest.vectors
            if rows
        ]
        self._sqlite = sqlite3.connect(
            f"file:{_uri(folder / 'catalogue.sqlite')}?mode=ro&immutable=1", uri=True, check_same_thread=False
        )
        self._packs: dict[str, IO[bytes]] = {}
        self._lines: OrderedDict[tuple[str, int, int], list[str]] = OrderedDict()
        self._index = _open_words(folder / "words")
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
                return rows[uids - first].astype(np.float32) / np.float32(127)
            if inside.any():
                out[inside] = rows[uids[inside] - first]
        return out / np.float32(127)

    def chunks(self, uids: Sequence[int]) -> list[StoredChunk]:
        """Chunks with their text, in the order asked."""
        marks = ",".join("?" * len(uids))
        rows = self._sqlite.execute(_CHUNK_SELECT + f"WHERE c.uid IN ({marks})", tuple(map(int, uids))).fetchall()
        found = {row[0]: self._chunk(row) for row in rows}
        return [found[uid] for uid in uids if uid in found]

    def _chunk(self, row: tuple[Any, ...]) -> StoredChunk:
        uid, path, language, start, end, symbol, kind, defines, *place = row
        text = "\n".join(self._lines_of((place[0], place[1], place[2]))[start - 1 : end])
        return StoredChunk(uid, path, language, start, end, symbol, kind, bool(defines), text)

    def _lines_of(self, place: tuple[str, int, int]) -> list[str]:
        """A file's lines; those of the files asked for last are kept, as questions of one task are about few files."""
        lines = self._lines.get(place)
        if lines is None:
            lines = self._lines[place] = self._text(*place).split("\n")
            while len(self._lines) > _KEPT_TEXTS:
                with contextlib.suppress(KeyError):  # another thread was here first
                    self._lines.popitem(last=False)
        return lines

    def _text(self, pack: str, offset: int, length: int) -> str:
        file = self._packs.get(pack)
        if file is None:
            opened = (self._folder / pack).open("rb")
            file = self._packs.setdefault(pack, opened)
            if file is not opened:  # another thread was here first
                opened.close()
        return zlib.decompress(os.pread(file.fileno(), length, offset)).decode("utf-8", "replace")

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


class LocalIndexWriter:
    """The next generation of one index, in a folder of its own until it is published."""

    def __init__(
        self,
        folder: Path,
        *,
        lock: IO[bytes],
        generation: int,
        base: Path | None,
        identity: str,
        embedder: str,
        dimension: int,
    ) -> None:
        self._index_folder = folder
        self._lock = lock
        self._generation = generation
        self._identity = identity
        self._embedder = embedder
        self._dimension = dimension
        self._base_reader = LocalIndexReader(base) if base else None
        self._published = False
        self._new = folder / _generation_name(generation)
        _sweep(folder, keep=self._current_folders())
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.mkdir()
        if base:
            _link_generation(base, self._new)
            manifest = _Manifest.load(base / "manifest.json")
            self._segments = list(manifest.vectors)
            self._first_uid = manifest.next_uid
            self._base_columns: NDArray[Any] = np.load(base / "columns.npy")
        else:
            (self._new / "words").mkdir()
            self._segments = []
            self._first_uid = 0
            self._base_columns = np.zeros(0, dtype=_COLUMNS)
        self._next_uid = self._first_uid
        self._columns: list[tuple[int, float, bool]] = []
        self._sqlite = sqlite3.connect(self._new / "catalogue.sqlite", isolation_level=None, check_same_thread=False)
        # The folder is private until it is published, and synced then: a journal would protect nothing.
        self._sqlite.execute("PRAGMA journal_mode=OFF")
        self._sqlite.execute("PRAGMA synchronous=OFF")
        if not base:
            self._sqlite.executescript(_SCHEMA)
        self._sqlite.execute("BEGIN")
        self._words: Any = None
        self._index = _open_words(self._new / "words", create=not base)
        # Names that no other generation of any branch has: the linked files beside them are shared and must not change.
        unique = uuid.uuid4().hex
        self._vectors = (self._new / f"vectors-{unique}.bin").open("xb")
        self._pack_name = f"text-{unique}.pack"
        self._pack = (self._new / self._pack_name).open("xb")
        self._pack_offset = 0

    @property
    def base(self) -> IndexState | None:
        """The generation that this one began as a copy of."""
        return self._base_reader.state if self._base_reader else None

    @property
    def wasted(self) -> float:
        """Part of the uids that belong to removed chunks, 0 to 1: what a fresh generation would save."""
        total = self._next_uid
        live: int = self._sqlite.execute("SELECT count(*) FROM chunks").fetchone()[0]
        return 1 - live / total if total else 0.0

    def known(self) -> dict[str, str]:
        """Path to blob of every file of the base, those skipped included."""
        return self._base_reader.files() if self._base_reader else {}

    def known_blob(self, path: str) -> str | None:
        """The blob of one file of the base, skipped or not."""
        return self._base_reader.blob_of(path) if self._base_reader else None

    def skipped(self, reason: str) -> frozenset[str]:
        """Paths that the base left out for one reason."""
        return self._base_reader.skipped(reason) if self._base_reader else frozenset()

    def reusable(self, blob: str) -> Reusable | None:
        """What the base knows of a content."""
        return self._base_reader.reusable(blob) if self._base_reader else None

    def add(self, file: FileRow, vectors: NDArray[np.int8]) -> None:
        """Store a file, replacing what was at its path."""
        try:
            self._add(file, vectors)
        except (OSError, sqlite3.Error, ValueError) as error:  # Tantivy says ValueError for a full disk too
            raise _disk_failed("add", error) from error

    def _add(self, file: FileRow, vectors: NDArray[np.int8]) -> None:
        if self._base_reader is not None:
            self.remove(file.path)
        packed = zlib.compress(file.text.encode("utf-8", "replace"), 1)
        self._pack.write(packed)
        cursor = self._sqlite.execute(
            "INSERT INTO files(path, blob, language, lines, pack, offset, length, first_uid, chunk_count) "
            "VALUES(?,?,?,?,?,?,?,?,?)",
            (
                file.path,
                file.blob,
                file.language,
                file.lines,
                self._pack_name,
                self._pack_offset,
                len(packed),
                self._next_uid,
                len(file.chunks),
            ),
        )
        file_id = cursor.lastrowid or 0
        self._pack_offset += len(packed)
        self._vectors.write(np.ascontiguousarray(vectors, dtype=np.int8).tobytes())
        writer = self._word_writer()
        rows = []
        for chunk in file.chunks:
            uid = self._next_uid
            self._next_uid += 1
            self._columns.append((file_id, file.prior, chunk.defines))
            fields = chunk.fields
            rows.append(
                (
                    uid,
                    file_id,
                    chunk.start_line,
                    chunk.end_line,
                    chunk.symbol,
                    chunk.kind,
                    " ".join(chunk.kinds),
                    chunk.defines,
                )
            )
            writer.add_document(
                tantivy.Document(uid=uid, file=file_id, language=file.language, kinds=" ".join(chunk.kinds), **fields)
            )
        self._sqlite.executemany("INSERT INTO chunks VALUES(?,?,?,?,?,?,?,?)", rows)
        self._sqlite.executemany(
            "INSERT OR IGNORE INTO symbols VALUES(?,?,?,?,?,?)",
            [(file_id, s.start_line, s.name, s.kind, s.end_line, s.parent) for s in file.symbols],
        )
        self._sqlite.executemany(
            "INSERT OR IGNORE INTO imports VALUES(?,?)", [(file_id, name) for name in file.imports]
        )

    def skip(self, path: str, blob: str, reason: str) -> None:
        """Remember that a file was left out."""
        self.remove(path)
        self._sqlite.execute("INSERT OR REPLACE INTO skipped VALUES(?,?,?)", (path, blob, reason))

    def remove(self, path: str) -> None:
        """Forget a file."""
        row = self._sqlite.execute("SELECT id FROM files WHERE path = ?", (path,)).fetchone()
        if row is None:
            self._sqlite.execute("DELETE FROM skipped WHERE path = ?", (path,))
            return
        (file_id,) = row
        self._word_writer().delete_documents_by_term("file", file_id)
        for statement in (
            "DELETE FROM chunks WHERE uid >= (SELECT first_uid FROM files WHERE id = ?1) "  # noqa: ISC004 - one statement
            "AND uid < (SELECT first_uid + chunk_count FROM files WHERE id = ?1)",
            "DELETE FROM symbols WHERE file = ?",
            "DELETE FROM imports WHERE file = ?",
            "DELETE FROM files WHERE id = ?",
        ):
            self._sqlite.execute(statement, (file_id,))

    def publish(self, *, commit: str, notes: Mapping[str, str] | None = None) -> IndexState:
        """Make this the generation that readers open from now on."""
        try:
            return self._publish(commit, notes or {})
        except (OSError, sqlite3.Error, ValueError) as error:
            raise _disk_failed("publish", error) from error

    def _publish(self, commit: str, notes: Mapping[str, str]) -> IndexState:
        if self._words is not None:
            self._words.commit()
            self._words.wait_merging_threads()
            self._words = None
        self._pack.close()
        self._vectors.close()
        if self._next_uid > self._first_uid:
            self._segments.append((Path(self._vectors.name).name, self._first_uid, self._next_uid - self._first_uid))
        else:
            Path(self._vectors.name).unlink()
            Path(self._pack.name).unlink()
        self._merge_segments()
        columns = np.concatenate([self._base_columns, np.array(self._columns, dtype=_COLUMNS)])
        np.save(self._new / "columns.npy", columns)
        one = self._sqlite.execute
        state = IndexState(
            generation=self._generation,
            identity=self._identity,
            commit=commit,
            embedder=self._embedder,
            dimension=self._dimension,
            files=one("SELECT count(*) FROM files").fetchone()[0],
            chunks=one("SELECT count(*) FROM chunks").fetchone()[0],
            languages=dict(one("SELECT language, count(*) FROM files GROUP BY language ORDER BY 2 DESC, 1")),
            skipped=dict(one("SELECT reason, count(*) FROM skipped GROUP BY reason ORDER BY 2 DESC, 1")),
            notes=notes,
        )
        one("COMMIT")
        self._sqlite.close()
        manifest = _Manifest(state, tuple(self._segments), self._next_uid)
        (self._new / "manifest.json").write_text(manifest.dump())
        _sync_folder(self._new)
        _replace(self._index_folder / "CURRENT", str(self._generation))
        self._published = True
        return state

    def _merge_segments(self) -> None:
        if len(self._segments) <= _MAX_SEGMENTS:
            return
        # All but the largest become one, so that the bulk is rewritten seldom.
        largest = max(self._segments, key=lambda segment: segment[2])
        rest = self._segments[self._segments.index(largest) + 1 :] if largest is self._segments[0] else self._segments
        merged = self._new / f"vectors-{uuid.uuid4().hex}.bin"
        with merged.open("xb") as out:
            for name, _, _ in rest:
                out.write((self._new / name).read_bytes())
        for name, _, _ in rest:
            (self._new / name).unlink()
        kept = [segment for segment in self._segments if segment not in rest]
        self._segments = [*kept, (merged.name, rest[0][1], sum(rows for _, _, rows in rest))]

    def _word_writer(self) -> Any:
        if self._words is None:
            heap = _SMALL_HEAP_BYTES if self._base_reader else _HEAP_BYTES
            # One thread: documents stay in order, and an index of this size gains nothing from more.
            self._words = self._index.writer(heap, 1)
        return self._words

    def _current_folders(self) -> set[str]:
        try:
            generation = int((self._index_folder / "CURRENT").read_text())
        except (OSError, ValueError):
            return set()
        return {_generation_name(generation), _generation_name(generation - 1)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._published:
            if self._words is not None:
                with contextlib.suppress(ValueError):
                    self._words.rollback()
            self._words = None
            self._sqlite.close()
            self._pack.close()
            self._vectors.close()
            shutil.rmtree(self._new, ignore_errors=True)
        if self._base_reader:
            self._base_reader.close()
        self._lock.close()


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


def _safe(name: str) -> str:
    """A folder name for any id: readable where that is safe, with a hash where characters were replaced."""
    plain = re.sub(r"[^A-Za-z0-9_@-]", "_", name)[:80]
    if plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _generation_name(generation: int) -> str:
    return f"g-{generation:08d}"


def _newest(folder: Path) -> int:
    return max((int(path.name[2:]) for path in folder.glob("g-????????") if path.name[2:].isdecimal()), default=0)


def _sweep(folder: Path, *, keep: set[str]) -> None:
    """Remove generations that nobody will open again, and those of killed writers (the lock is ours)."""
    for path in folder.glob("g-*"):
        if path.name not in keep:
            shutil.rmtree(path, ignore_errors=True)


def _link_generation(old: Path, new: Path) -> None:
    for path in old.iterdir():
        if path.suffix in _IMMUTABLE:
            _link(path, new / path.name)
    shutil.copyfile(old / "catalogue.sqlite", new / "catalogue.sqlite")
    (new / "words").mkdir()
    for path in (old / "words").iterdir():
        if path.suffix == ".json":
            shutil.copyfile(path, new / "words" / path.name)
        elif path.suffix != ".lock":
            _link(path, new / "words" / path.name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _sync_folder(folder: Path) -> None:
    for path in (folder / "manifest.json", folder / "catalogue.sqlite"):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fdatasync(handle)
        finally:
            os.close(handle)


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)


def _lock(path: Path, timeout: timedelta, sleep: Callable[[float], None] = time.sleep) -> IO[bytes]:
    file = path.open("ab")
    deadline = time.monotonic() + timeout.total_seconds()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.close()
                raise SearchFailed(
                    f"another indexing of this project has been running for more than {timeout}",
                    service="index",
                    operation="lock",
                    retryable=True,
                    reason="index_busy",
                ) from None
            sleep(0.02)
        else:
            return file


def _disk_failed(operation: str, error: Exception) -> SearchFailed:
    return SearchFailed(
        f"the index can't be written: {error}",
        service="index",
        operation=operation,
        retryable=False,
        reason="index_not_writable",
    )


def _uri(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
