"""Writing the next generation of the local index."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import uuid
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import tantivy

from corral.adapters.index.local_layout import COLUMNS, SCHEMA, Manifest, disk_failed, generation_name, open_words
from corral.adapters.index.local_reader import LocalIndexReader
from corral.adapters.index.port import FileRow, IndexState, Reusable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HEAP_BYTES = 48_000_000
_SMALL_HEAP_BYTES = 15_000_000  # Tantivy's least
_MAX_SEGMENTS = 8
_IMMUTABLE = (".bin", ".pack")


Sealed = Callable[[Path, Path | None, IndexState], None]
"""Given a finished generation's folder, the folder of its base, and what it is."""


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
        sealed: Sealed | None = None,
    ) -> None:
        self._index_folder = folder
        self._base = base
        self._sealed = sealed
        self._lock = lock
        self._generation = generation
        self._identity = identity
        self._embedder = embedder
        self._dimension = dimension
        self._base_reader = LocalIndexReader(base) if base else None
        self._published = False
        self._new = folder / generation_name(generation)
        sweep(folder, keep=self._current_folders())
        shutil.rmtree(self._new, ignore_errors=True)
        self._new.mkdir()
        if base:
            _link_generation(base, self._new)
            manifest = Manifest.load(base / "manifest.json")
            self._segments = list(manifest.vectors)
            self._first_uid = manifest.next_uid
            self._base_columns: NDArray[Any] = np.load(base / "columns.npy")
        else:
            (self._new / "words").mkdir()
            self._segments = []
            self._first_uid = 0
            self._base_columns = np.zeros(0, dtype=COLUMNS)
        self._next_uid = self._first_uid
        self._columns: list[tuple[int, float, bool]] = []
        self._sqlite = sqlite3.connect(self._new / "catalogue.sqlite", isolation_level=None, check_same_thread=False)
        # The folder is private until it is published, and synced then: a journal would protect nothing.
        self._sqlite.execute("PRAGMA journal_mode=OFF")
        self._sqlite.execute("PRAGMA synchronous=OFF")
        if not base:
            self._sqlite.executescript(SCHEMA)
        self._sqlite.execute("BEGIN")
        self._words: Any = None
        self._index = open_words(self._new / "words", create=not base)
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
            raise disk_failed("add", error) from error

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
            raise disk_failed("publish", error) from error

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
        columns = np.concatenate([self._base_columns, np.array(self._columns, dtype=COLUMNS)])
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
        manifest = Manifest(state, tuple(self._segments), self._next_uid)
        (self._new / "manifest.json").write_text(manifest.dump())
        _sync_folder(self._new)
        if self._sealed is not None:
            self._sealed(self._new, self._base, state)
        replace_text(self._index_folder / "CURRENT", str(self._generation))
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
        return {generation_name(generation), generation_name(generation - 1)}

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


def sweep(folder: Path, *, keep: set[str]) -> None:
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


def replace_text(path: Path, text: str) -> None:
    """Replace a small file in one step."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    new.replace(path)
