"""The port of the index store: where a project's chunks, symbols and vectors are kept and asked.

An index has a name (project and branch) and an identity (what made it: formats, words, embedder and dimension). A
writer builds the next generation beside the one that is being read and publishes it in one step; a reader stays on the
generation that it opened. All calls block and are made from worker threads.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIELDS = ("body", "names", "path", "stem", "exact")
"""The lexical fields, each a run of words: the text; names defined in it; the path; the file's stem; whole names."""


@dataclass(frozen=True, slots=True)
class IndexName:
    """Which index: one for each project and branch."""

    project_id: str
    #: As the project calls it; ``""`` for the default branch.
    branch: str = ""


@dataclass(frozen=True, slots=True)
class SymbolRow:
    """One definition."""

    name: str
    kind: str
    start_line: int
    end_line: int
    parent: str = ""


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """One chunk to be stored; lines count from 1, both ends belong to it."""

    start_line: int
    end_line: int
    #: Name and kind of what it is mainly about, for people; ``""`` when nothing is defined there.
    symbol: str
    kind: str
    #: Every kind defined in it, for the filter.
    kinds: tuple[str, ...]
    defines: bool
    #: Field to words (see ``FIELDS``).
    fields: Mapping[str, str]
    #: The different words of the fields, where the caller has them anyway; see ``different_words``.
    words: AbstractSet[str] | None = None

    def different_words(self) -> AbstractSet[str]:
        """Each word of the fields once; whole names needn't be among them, as the text has them too."""
        if self.words is not None:
            return self.words
        return {word for field, words in self.fields.items() if field != "exact" for word in words.split()}


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file to be stored."""

    path: str
    #: git's hash of its content.
    blob: str
    language: str
    lines: int
    text: str
    #: Factor on the scores of its chunks; see ``ranking.path_prior``.
    prior: float
    chunks: Sequence[ChunkRow]
    symbols: Sequence[SymbolRow] = ()
    imports: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file as the index knows it."""

    file_id: int
    path: str
    blob: str
    language: str
    lines: int


class StoredChunk(NamedTuple):
    """One chunk as the index knows it; a tuple, as each answer makes ten."""

    uid: int
    path: str
    language: str
    start_line: int
    end_line: int
    symbol: str
    kind: str
    defines: bool
    text: str


@dataclass(frozen=True, slots=True)
class StoredSymbol:
    """One definition and where it is."""

    path: str
    name: str
    kind: str
    start_line: int
    end_line: int
    parent: str


@dataclass(frozen=True, slots=True)
class Reusable:
    """A file's chunks and vectors from an earlier generation, for the same content and language at whatever path."""

    text: str
    lines: int
    chunks: Sequence[ChunkRow]
    symbols: Sequence[SymbolRow]
    imports: Sequence[str]
    #: int8, chunks x dimension.
    vectors: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Filters:
    """What a hit must be; empty means anything."""

    languages: frozenset[str] = frozenset()
    #: Shell-style patterns on the path, of which one must fit.
    paths: tuple[str, ...] = ()
    kinds: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.languages or self.paths or self.kinds)


@dataclass(frozen=True, slots=True)
class LexicalQuery:
    """Words to look for, and what else to tell of each chunk that has some of them."""

    #: Field to (word, weight).
    terms: Mapping[str, Sequence[tuple[str, float]]]
    filters: Filters = Filters()
    #: Words of which each candidate tells whether it has them.
    words: Sequence[str] = ()
    #: A unit vector that each candidate is compared with; None compares with nothing.
    vector: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Candidates:
    """The best chunks by words alone or by vectors alone, best first.

    Attributes:
        uids: int64 (n,), the chunks.
        scores: float32 (n,), BM25 summed over the fields, or cosines.
        files: int64 (n,), ids of the files that they are in.
        priors: float32 (n,), factors by path.
        defines: bool (n,), whether something begins in the chunk.
        held: bool (n, words), which of the words asked for each has in its fields; a few per cent of the yes may be
            wrong.
        similarities: float32 (n,), cosines with the vector asked for; None without one.
    """

    uids: NDArray[np.int64]
    scores: NDArray[np.float32]
    files: NDArray[np.int64]
    priors: NDArray[np.float32]
    defines: NDArray[np.bool_]
    held: NDArray[np.bool_]
    similarities: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class IndexState:
    """What a generation is and holds."""

    generation: int
    #: What it was made by; a writer with another identity starts anew.
    identity: str
    #: The commit that it shows, and ``""`` for a folder that is no repository.
    commit: str
    embedder: str
    dimension: int
    files: int
    chunks: int
    languages: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)
    #: What else the builder wants to find again.
    notes: Mapping[str, str] = field(default_factory=dict)


class IndexReader(Protocol):
    """One generation, unchanging."""

    @property
    def state(self) -> IndexState:
        """What is open."""
        ...

    def candidates(self, query: LexicalQuery, limit: int) -> Candidates:
        """The ``limit`` best chunks by words."""
        ...

    def nearest(
        self, vector: NDArray[np.float32], limit: int, filters: Filters, words: Sequence[str] = ()
    ) -> Candidates:
        """The ``limit`` chunks nearest to a unit vector, by an exact scan; their scores are cosines.

        Args:
            vector: (dimension,).
            limit: At most so many.
            filters: Among which chunks.
            words: Of which each tells whether it has them.
        """
        ...

    def vectors(self, uids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors of chunks, (n, dimension), unit length but for rounding."""
        ...

    def chunks(self, uids: Sequence[int]) -> list[StoredChunk]:
        """Chunks with their text, in the order asked; unknown ones are left out."""
        ...

    def paths(self, file_ids: Sequence[int]) -> dict[int, str]:
        """File id to path."""
        ...

    def file(self, path: str) -> StoredFile | None:
        """One file, or None."""
        ...

    def file_chunks(self, path: str) -> list[StoredChunk]:
        """All chunks of a file in order."""
        ...

    def files(self) -> dict[str, str]:
        """Path to blob, of all files, those skipped included."""
        ...

    def symbols_of(self, path: str, first_line: int = 1, last_line: int | None = None) -> list[StoredSymbol]:
        """Definitions in one file that begin from one line to another, both included, in order."""
        ...

    def definitions(self, name: str, limit: int = 50) -> list[StoredSymbol]:
        """Where a name is defined; the case matters."""
        ...

    def imports_of(self, path: str) -> list[str]:
        """What one file imports, as written."""
        ...

    def importers(self, names: Iterable[str]) -> list[str]:
        """Paths of files that import one of these names as written."""
        ...

    def reusable(self, blob: str, language: str) -> Reusable | None:
        """What is known of a content, wherever it lies as a file of one language: another cuts it otherwise."""
        ...

    def close(self) -> None:
        """Let go of files and memory."""
        ...


class IndexWriter(Protocol):
    """The next generation, seen by nobody until it is published."""

    @property
    def base(self) -> IndexState | None:
        """The generation that this one began as a copy of; None when it began empty."""
        ...

    def known(self) -> dict[str, str]:
        """Path to blob, of every file of the base, those skipped included."""
        ...

    def known_blob(self, path: str) -> str | None:
        """The blob of one file of the base, skipped or not; None when it has none."""
        ...

    def skipped(self, reason: str) -> frozenset[str]:
        """Paths that the base left out for one reason."""
        ...

    def reusable(self, blob: str, language: str) -> Reusable | None:
        """What the base knows of a content in one language, wherever it lies; also after ``remove``."""
        ...

    def add(self, file: FileRow, vectors: NDArray[np.int8]) -> None:
        """Store a file; ``vectors`` is int8, chunks x dimension. Replaces what was at its path."""
        ...

    def skip(self, path: str, blob: str, reason: str) -> None:
        """Remember that a file was left out and why."""
        ...

    def remove(self, path: str) -> None:
        """Forget a file."""
        ...

    def publish(self, *, commit: str, notes: Mapping[str, str] | None = None) -> IndexState:
        """Make this the generation that readers open from now on."""
        ...

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; what wasn't published is thrown away."""
        ...


class IndexStore(Protocol):
    """All indexes of an installation."""

    def open(self, name: IndexName) -> IndexReader | None:
        """The published generation; None when there is none.

        Raises:
            SearchFailed: It can't be read.
        """
        ...

    def current(self, name: IndexName) -> int | None:
        """Number of the published generation; a cheap question (some microseconds on a local disk).

        Higher with each publication; a number of an index that was removed does not come again.
        """
        ...

    def writer(
        self, name: IndexName, *, identity: str, embedder: str, dimension: int, fresh: bool = False
    ) -> IndexWriter:
        """Begin a generation: from the published one, else from the nearest branch's, else empty.

        Args:
            name: Which index.
            identity: What makes it; a generation of another identity is no base.
            embedder: The embedder's name, for the record.
            dimension: Length of its vectors.
            fresh: Begin empty whatever there is.

        Raises:
            SearchFailed: Another writer holds this index (retryable), or the disk refuses.
        """
        ...

    def branches(self, project_id: str) -> list[str]:
        """Branches of a project that have an index, by name; ``""`` is the default one.

        Raises:
            SearchFailed: The store can't be asked.
        """
        ...

    def remove(self, project_id: str, branch: str | None = None) -> None:
        """Forget the index of a branch, or with None all indexes of a project; readers keep what they opened.

        Raises:
            SearchFailed: The store can't be asked, or the one branch is being written (retryable).
        """
        ...


def path_fits(path: str, pattern: str) -> bool:
    """Whether a path fits a filter's pattern: ``src/`` is everything below, ``*.py`` any depth, else the whole path."""
    pattern = pattern.removeprefix("./").strip()
    if pattern.endswith("/"):
        pattern += "*"
    elif "/" not in pattern and any(mark in pattern for mark in "*?[") and not pattern.startswith("*"):
        pattern = "*" + pattern
    return fnmatch.fnmatchcase(path, pattern)
