"""An index store in memory for tests: simple, slow and exact, with the same contract as the real ones."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self

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
    path_fits,
)
from corral.errors import SearchFailed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class _Held:
    file_id: int
    row: FileRow
    vectors: NDArray[np.int8]
    first_uid: int


@dataclass(frozen=True, slots=True)
class _Generation:
    state: IndexState
    files: Mapping[str, _Held]
    skipped: Mapping[str, tuple[str, str]]
    next_uid: int


class MemoryIndexStore:
    """Indexes of one process."""

    def __init__(self) -> None:
        self._published: dict[IndexName, _Generation] = {}
        self._numbers: dict[IndexName, int] = {}
        self._writing: set[IndexName] = set()

    def open(self, name: IndexName) -> MemoryIndexReader | None:
        """The published generation; None when there is none."""
        generation = self._published.get(name)
        return MemoryIndexReader(generation) if generation else None

    def current(self, name: IndexName) -> int | None:
        """Number of the published generation."""
        generation = self._published.get(name)
        return generation.state.generation if generation else None

    def writer(
        self, name: IndexName, *, identity: str, embedder: str, dimension: int, fresh: bool = False
    ) -> MemoryIndexWriter:
        """Begin a generation."""
        if name in self._writing:
            raise _busy()
        base = None if fresh else self._base(name, identity)
        self._writing.add(name)
        number = self._numbers.get(name, 0) + 1
        empty = IndexState(number, identity, "", embedder, dimension, 0, 0)
        return MemoryIndexWriter(self, name, base, empty)

    def branches(self, project_id: str) -> list[str]:
        """Branches of a project that have an index."""
        return sorted(name.branch for name in self._published if name.project_id == project_id)

    def remove(self, project_id: str, branch: str | None = None) -> None:
        """Forget the index of a branch, or all of a project."""
        if branch is not None and IndexName(project_id, branch) in self._writing:
            raise _busy()
        for name in [name for name in self._published if name.project_id == project_id]:
            if branch in {None, name.branch}:
                del self._published[name]

    def _base(self, name: IndexName, identity: str) -> _Generation | None:
        names = [name, *(other for other in self._published if other.project_id == name.project_id)]
        found = (self._published.get(candidate) for candidate in names)
        return next((generation for generation in found if generation and generation.state.identity == identity), None)

    def put(self, name: IndexName, generation: _Generation | None) -> None:
        """End a writer; for the writer only."""
        self._writing.discard(name)
        if generation is not None:
            self._published[name] = generation
            self._numbers[name] = generation.state.generation  # it stays when the index is removed


def _busy() -> SearchFailed:
    return SearchFailed(
        "another indexing of this project is running",
        service="index",
        operation="lock",
        retryable=True,
        reason="index_busy",
    )


class MemoryIndexReader:
    """One generation."""

    def __init__(self, generation: _Generation) -> None:
        self._generation = generation
        self._by_uid: dict[int, tuple[_Held, ChunkRow]] = {
            held.first_uid + position: (held, chunk)
            for held in generation.files.values()
            for position, chunk in enumerate(held.row.chunks)
        }

    @property
    def state(self) -> IndexState:
        """What is open."""
        return self._generation.state

    def candidates(self, query: LexicalQuery, limit: int) -> Candidates:
        """By BM25, as Tantivy scores it."""
        scores: dict[int, float] = dict.fromkeys(self._matching(query.filters), 0.0)
        count = len(self._by_uid)
        for name, words in query.terms.items():
            fields = {uid: chunk.fields.get(name, "").split() for uid, (_, chunk) in self._by_uid.items()}
            mean = sum(map(len, fields.values())) / count if count else 1.0
            for word, weight in words:
                having = {uid: Counter(field)[word] for uid, field in fields.items() if word in field}
                rarity = math.log(1 + (count - len(having) + 0.5) / (len(having) + 0.5))
                for uid in having.keys() & scores.keys():
                    length = 0.25 + 0.75 * len(fields[uid]) / (mean or 1.0)
                    scores[uid] += weight * rarity * 2.2 * having[uid] / (having[uid] + 1.2 * length)
        found = {uid: score for uid, score in scores.items() if score > 0}
        return self._candidates(found, limit, query.words, query.vector)

    def nearest(
        self, vector: NDArray[np.float32], limit: int, filters: Filters, words: Sequence[str] = ()
    ) -> Candidates:
        """By an exact scan."""
        import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

        uids = np.array(sorted(self._matching(filters)), dtype=np.int64)
        similarities = self.vectors(uids) @ vector
        return self._candidates(dict(zip(uids.tolist(), similarities.tolist(), strict=True)), limit, words, vector)

    def _matching(self, filters: Filters) -> list[int]:
        return [
            uid
            for uid, (held, chunk) in self._by_uid.items()
            if (not filters.languages or held.row.language in filters.languages)
            and (not filters.kinds or not filters.kinds.isdisjoint(chunk.kinds))
            and (not filters.paths or any(path_fits(held.row.path, pattern) for pattern in filters.paths))
        ]

    def _candidates(
        self, scores: Mapping[int, float], limit: int, words: Sequence[str], vector: NDArray[np.float32] | None
    ) -> Candidates:
        import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

        best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:limit]
        held = [self._by_uid[uid] for uid, _ in best]
        uids = np.array([uid for uid, _ in best], dtype=np.int64)
        return Candidates(
            uids=uids,
            scores=np.array([score for _, score in best], dtype=np.float32),
            files=np.array([file.file_id for file, _ in held], dtype=np.int64),
            priors=np.array([file.row.prior for file, _ in held], dtype=np.float32),
            defines=np.array([chunk.defines for _, chunk in held], dtype=np.bool_),
            held=self._held(uids, words),
            similarities=None if vector is None else self.vectors(uids) @ vector,
        )

    def vectors(self, uids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of chunks."""
        import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

        rows = [self._by_uid[uid][0].vectors[uid - self._by_uid[uid][0].first_uid] for uid in uids.tolist()]
        return np.array(rows, dtype=np.float32).reshape(len(rows), self.state.dimension) / np.float32(127)

    def _held(self, uids: NDArray[np.int64], words: Sequence[str]) -> NDArray[np.bool_]:
        """Which words each chunk holds, without a wrong yes."""
        import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

        fields = [self._by_uid[uid][1].fields for uid in uids.tolist()]
        have = [{word for name in FIELDS for word in row.get(name, "").split()} for row in fields]
        return np.array([[word in one for word in words] for one in have], dtype=np.bool_).reshape(
            len(uids), len(words)
        )

    def chunks(self, uids: Sequence[int]) -> list[StoredChunk]:
        """Chunks with their text."""
        return [self._stored(uid) for uid in uids if uid in self._by_uid]

    def _stored(self, uid: int) -> StoredChunk:
        held, chunk = self._by_uid[uid]
        text = "\n".join(held.row.text.split("\n")[chunk.start_line - 1 : chunk.end_line])
        return StoredChunk(
            uid,
            held.row.path,
            held.row.language,
            chunk.start_line,
            chunk.end_line,
            chunk.symbol,
            chunk.kind,
            chunk.defines,
            text,
        )

    def paths(self, file_ids: Sequence[int]) -> dict[int, str]:
        """File id to path."""
        wanted = set(file_ids)
        return {held.file_id: path for path, held in self._generation.files.items() if held.file_id in wanted}

    def file(self, path: str) -> StoredFile | None:
        """One file, or None."""
        held = self._generation.files.get(path)
        return StoredFile(held.file_id, path, held.row.blob, held.row.language, held.row.lines) if held else None

    def file_chunks(self, path: str) -> list[StoredChunk]:
        """All chunks of a file."""
        held = self._generation.files.get(path)
        return [self._stored(held.first_uid + position) for position in range(len(held.row.chunks))] if held else []

    def files(self) -> dict[str, str]:
        """Path to blob of all files, those skipped included."""
        blobs = {path: held.row.blob for path, held in self._generation.files.items()}
        return blobs | {path: blob for path, (blob, _) in self._generation.skipped.items()}

    def symbols_of(self, path: str, first_line: int = 1, last_line: int | None = None) -> list[StoredSymbol]:
        """Definitions in one file that begin between two lines."""
        held = self._generation.files.get(path)
        rows = sorted(held.row.symbols, key=lambda symbol: symbol.start_line) if held else []
        return [
            StoredSymbol(path, s.name, s.kind, s.start_line, s.end_line, s.parent)
            for s in rows
            if first_line <= s.start_line and (last_line is None or s.start_line <= last_line)
        ]

    def definitions(self, name: str, limit: int = 50) -> list[StoredSymbol]:
        """Where a name is defined."""
        found = [symbol for path in sorted(self._generation.files) for symbol in self.symbols_of(path)]
        return [symbol for symbol in found if symbol.name == name][:limit]

    def imports_of(self, path: str) -> list[str]:
        """What one file imports."""
        held = self._generation.files.get(path)
        return sorted(set(held.row.imports)) if held else []

    def importers(self, names: Iterable[str]) -> list[str]:
        """Paths of files that import one of these names."""
        wanted = set(names)
        return sorted(path for path, held in self._generation.files.items() if wanted & set(held.row.imports))

    def reusable(self, blob: str, language: str) -> Reusable | None:
        """What is known of a content in one language."""
        for held in self._generation.files.values():
            if (held.row.blob, held.row.language) == (blob, language):
                row = held.row
                return Reusable(row.text, row.lines, row.chunks, row.symbols, row.imports, held.vectors)
        return None

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass(slots=True)
class MemoryIndexWriter:
    """The next generation."""

    _store: MemoryIndexStore
    _name: IndexName
    _base: _Generation | None
    _state: IndexState
    _files: dict[str, _Held] = field(init=False)
    _skipped: dict[str, tuple[str, str]] = field(init=False)
    _next_uid: int = field(init=False)
    _done: _Generation | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._files = dict(self._base.files) if self._base else {}
        self._skipped = dict(self._base.skipped) if self._base else {}
        self._next_uid = self._base.next_uid if self._base else 0

    @property
    def base(self) -> IndexState | None:
        """The generation that this one began as a copy of."""
        return self._base.state if self._base else None

    def known(self) -> dict[str, str]:
        """Path to blob of every file of the base."""
        return MemoryIndexReader(self._base).files() if self._base else {}

    def known_blob(self, path: str) -> str | None:
        """The blob of one file of the base."""
        return self.known().get(path)

    def skipped(self, reason: str) -> frozenset[str]:
        """Paths that the base left out for one reason."""
        rows = self._base.skipped.items() if self._base else ()
        return frozenset(path for path, (_, why) in rows if why == reason)

    def reusable(self, blob: str, language: str) -> Reusable | None:
        """What the base knows of a content in one language."""
        return MemoryIndexReader(self._base).reusable(blob, language) if self._base else None

    def add(self, file: FileRow, vectors: NDArray[np.int8]) -> None:
        """Store a file."""
        self._skipped.pop(file.path, None)
        self._files[file.path] = _Held(self._next_uid + 1, file, vectors.copy(), self._next_uid)
        self._next_uid += max(1, len(file.chunks))

    def skip(self, path: str, blob: str, reason: str) -> None:
        """Remember that a file was left out."""
        self._files.pop(path, None)
        self._skipped[path] = (blob, reason)

    def remove(self, path: str) -> None:
        """Forget a file."""
        self._files.pop(path, None)
        self._skipped.pop(path, None)

    def publish(self, *, commit: str, notes: Mapping[str, str] | None = None) -> IndexState:
        """Make this the generation that readers open."""
        state = replace(
            self._state,
            commit=commit,
            files=len(self._files),
            chunks=sum(len(held.row.chunks) for held in self._files.values()),
            languages=dict(Counter(held.row.language for held in self._files.values())),
            skipped=dict(Counter(reason for _, reason in self._skipped.values())),
            notes=dict(notes or {}),
        )
        self._done = _Generation(state, self._files, self._skipped, self._next_uid)
        self._store.put(self._name, self._done)
        return state

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._done is None:
            self._store.put(self._name, None)
