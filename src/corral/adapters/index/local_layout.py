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

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from corral.adapters.index.port import FIELDS, IndexState
from corral.errors import ExtraMissing, SearchFailed

try:
    import numpy as np
    import tantivy
except ImportError as missing:
    raise ExtraMissing("codebase indexing needs the 'index' extra: pip install 'corral[index]'") from missing

_FORMAT = 2
COLUMNS = np.dtype([("file", "<i4"), ("prior", "<f4"), ("defines", "u1")])
SCHEMA = """
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


def open_words(folder: Path, *, create: bool = False) -> tantivy.Index:
    """The lexical index in a folder, with its tokenizer; ``ValueError`` when there is none."""
    index = tantivy.Index(_schema(), path=str(folder)) if create else tantivy.Index.open(str(folder))
    index.register_tokenizer("spaces", tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build())
    return index


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a generation is made of: the content of ``manifest.json``."""

    state: IndexState
    #: (file name, first uid, rows) of each vector segment.
    vectors: tuple[tuple[str, int, int], ...]
    next_uid: int

    def dump(self) -> str:
        """As the file holds it."""
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
    def load(cls, path: Path) -> Manifest:
        """Read it; ``OSError``, ``KeyError`` or ``ValueError`` when it is gone, cut or of another format."""
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


def safe_name(name: str) -> str:
    """A folder name for any id: readable where that is safe, with a hash where characters were replaced."""
    plain = re.sub(r"[^A-Za-z0-9_@-]", "_", name)[:80]
    if plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def generation_name(generation: int) -> str:
    """Name of a generation's folder."""
    return f"g-{generation:08d}"


def disk_failed(operation: str, error: Exception) -> SearchFailed:
    """What a writer raises when the disk, SQLite or Tantivy refuses."""
    return SearchFailed(
        f"the index can't be written: {error}",
        service="index",
        operation=operation,
        retryable=False,
        reason="index_not_writable",
    )
