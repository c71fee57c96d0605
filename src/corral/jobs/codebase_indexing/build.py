"""Bring an index up to date with a source: what changed is read, cut, embedded and stored; the rest stays."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from corral.adapters.embedder.port import Embedder, Passage
from corral.adapters.index.port import (
    ChunkRow,
    FileRow,
    IndexName,
    IndexState,
    IndexStore,
    IndexWriter,
    Reusable,
    SymbolRow,
)
from corral.adapters.words import WORDS_VERSION, words_of
from corral.errors import ExtraMissing, SearchFailed
from corral.jobs.codebase_indexing.chunks import CHUNKS_VERSION, Chunk, FileChunks, Symbol, chunk_file
from corral.jobs.codebase_indexing.collector import patient_collector
from corral.jobs.codebase_indexing.languages import language_of
from corral.jobs.codebase_indexing.ranking import RANKING_VERSION, compact, path_prior, stem_words
from corral.jobs.codebase_indexing.rules import (
    IGNORE_FILE,
    MAX_FILE_BYTES,
    RULES_VERSION,
    IgnoreRules,
    SkipReason,
    skip_by_path,
    text_of,
)
from corral.jobs.codebase_indexing.source import Change, Entry, EntryKind, Source, shown_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BATCH_CHUNKS = 256
_PROGRESS_EVERY = 64
_WASTE_LIMIT = 0.5
_MAX_NAMES = 24

Report = Callable[[int, int], None]
"""Told how many files of how many are done."""


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What was done."""

    state: IndexState
    #: Files that were read and stored anew.
    indexed: int
    #: Files taken over as they were.
    reused: int
    removed: int
    seconds: float
    cost_usd: float
    #: False when the index already showed this source.
    changed: bool


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build."""

    #: Build anew, whatever there is.
    full: bool = False
    #: Only look at these paths; empty means all.
    files: Sequence[str] = ()
    #: More patterns to leave out, in .gitignore's syntax.
    ignore: Sequence[str] = field(default=())
    #: Paths that are not even parsed: they brought an earlier try down.
    avoid: Sequence[str] = ()


def identity_of(embedder: Embedder, options: BuildOptions = BuildOptions()) -> str:
    """What makes an index: if it differs, the index is made anew, beside the old one."""
    versions = f"{WORDS_VERSION}.{CHUNKS_VERSION}.{RULES_VERSION}.{RANKING_VERSION}"
    ignore = hashlib.sha256("\n".join(options.ignore).encode()).hexdigest()[:8] if options.ignore else "-"
    return f"{versions}/{embedder.name}/{embedder.dimension}/{ignore}"


def build(
    source: Source,
    store: IndexStore,
    name: IndexName,
    embedder: Embedder,
    options: BuildOptions = BuildOptions(),
    *,
    report: Report = lambda _done, _total: None,
) -> BuildReport:
    """Bring an index up to date.

    Args:
        source: The files.
        store: Where the index is.
        name: Which one.
        embedder: Makes the vectors.
        options: How.
        report: Told of the progress, from this thread; what it raises ends the build and leaves the index as it was.

    Raises:
        SearchFailed: The store or the embedder failed.
        GitFailed: The source can't be read.
    """
    started = time.perf_counter()
    identity = identity_of(embedder, options)
    if not options.full:
        done = _nothing_to_do(source, store, name, identity, started)
        if done is not None:
            report(1, 1)
            return done
    with (
        patient_collector(),
        store.writer(
            name, identity=identity, embedder=embedder.name, dimension=embedder.dimension, fresh=options.full
        ) as writer,
    ):
        work = _Build(source, writer, embedder, options, report)
        work.run()
        partial = bool(options.files) and writer.base is not None
        commit = writer.base.commit if partial and writer.base else source.commit
        notes = writer.base.notes if partial and writer.base else source.notes
        state = writer.publish(commit=commit, notes=notes)
    return BuildReport(
        state=state,
        indexed=work.indexed,
        reused=max(0, state.files - work.indexed) + work.carried,
        removed=work.removed,
        seconds=time.perf_counter() - started,
        cost_usd=work.cost_usd,
        changed=True,
    )


def _nothing_to_do(
    source: Source, store: IndexStore, name: IndexName, identity: str, started: float
) -> BuildReport | None:
    try:
        reader = store.open(name)
    except SearchFailed:
        return None  # it can't be read: the writer begins anew
    if reader is None:
        return None
    try:
        state = reader.state
    finally:
        reader.close()
    if state.identity != identity or not source.unchanged(state.commit, state.notes):
        return None
    return BuildReport(state, 0, state.files, 0, time.perf_counter() - started, 0.0, changed=False)


class _Build:
    def __init__(
        self, source: Source, writer: IndexWriter, embedder: Embedder, options: BuildOptions, report: Report
    ) -> None:
        self._source = source
        self._writer = writer
        self._embedder = embedder
        self._options = options
        self._report = report
        self._ignore = IgnoreRules("", options.ignore)
        self._waiting: list[tuple[Entry, str, str, FileChunks, list[ChunkRow], list[Passage]]] = []
        self._waiting_chunks = 0
        self._done = 0
        self._total = 0
        self.indexed = 0
        self.carried = 0
        self.removed = 0
        self.cost_usd = 0.0

    def run(self) -> None:
        """Do it."""
        change = self._change()
        for path in change.removed:
            self._writer.remove(shown_path(path))
            self.removed += 1
        self._total = len(change.changed)
        self._report(0, max(1, self._total))
        for entry, content in self._source.read(self._to_read(change.changed), MAX_FILE_BYTES):
            self._take(entry, content)
        self._flush()
        self._report(max(1, self._total), max(1, self._total))

    def _to_read(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """Those whose content is neither left out nor known."""
        for entry in entries:
            reason = self._reason(entry)
            if reason is not None:
                self._skip(entry, reason)
            elif self._writer.base is not None and (old := self._known(entry)) is not None:
                self._carry(entry, old)
            else:
                yield entry

    def _change(self) -> Change:
        """What to look at, with the ignore rules of the source loaded."""
        base = self._writer.base
        if base is not None and not self._options.files:
            change = self._source.changes(base.commit, base.notes)
            if change is not None and not _touches_ignore(change):
                blob = self._writer.known_blob(IGNORE_FILE) if change.changed else None
                self._load_ignore(Entry(IGNORE_FILE, blob) if blob else None)
                blob_of = self._writer.known_blob
                news = [
                    entry
                    for entry in change.changed
                    if not entry.blob or blob_of(shown_path(entry.path)) != entry.blob  # links have no blob
                ]
                return Change(news, change.removed)
        entries = self._source.entries()
        self._load_ignore(next((entry for entry in entries if entry.path == IGNORE_FILE), None))
        known = self._writer.known()
        if self._options.files and base is not None:
            wanted = {path.removeprefix("./") for path in self._options.files}
            entries = [entry for entry in entries if entry.path in wanted]
            gone = sorted((wanted & known.keys()) - {shown_path(entry.path) for entry in entries})
            return Change(entries, gone)
        if self._options.files:
            wanted = {path.removeprefix("./") for path in self._options.files}
            return Change([entry for entry in entries if entry.path in wanted], ())
        if base is None:
            return Change(entries, ())
        shown = {shown_path(entry.path): entry for entry in entries}
        # Files that the rules left out, or leave out now, though their content is what it was.
        ruled = self._writer.skipped(SkipReason.IGNORED)
        changed = [
            entry
            for path, entry in shown.items()
            if known.get(path) != entry.blob or (entry.path in self._ignore) != (path in ruled)
        ]
        return Change(changed, sorted(known.keys() - shown.keys()))

    def _load_ignore(self, entry: Entry | None) -> None:
        if entry is None or entry.kind is not EntryKind.FILE:
            return
        for _, content in self._source.read([entry], MAX_FILE_BYTES):
            if content is not None:
                self._ignore = IgnoreRules(content.decode("utf-8", "replace"), self._options.ignore)

    def _reason(self, entry: Entry) -> SkipReason | None:
        if entry.kind is EntryKind.SYMLINK:
            return SkipReason.SYMLINK
        if entry.kind is EntryKind.SUBMODULE:
            return SkipReason.SUBMODULE
        if entry.path in self._ignore:
            return SkipReason.IGNORED
        if entry.path in self._options.avoid:
            return SkipReason.CRASHED
        return skip_by_path(entry.path)

    def _skip(self, entry: Entry, reason: SkipReason) -> None:
        self._writer.skip(shown_path(entry.path), entry.blob, reason)
        self._step()

    def _step(self) -> None:
        self._done += 1
        if self._done % _PROGRESS_EVERY == 0:
            self._report(self._done, self._total)

    def _known(self, entry: Entry) -> Reusable | None:
        return self._writer.reusable(entry.blob, _language(entry))

    def _carry(self, entry: Entry, old: Reusable) -> None:
        """The same content at another path of the same language: nothing is parsed or embedded."""
        path = shown_path(entry.path)
        lines = old.text.split("\n")
        path_fields = _path_fields(path)
        chunks = [
            replace(
                chunk,
                fields={
                    "body": words_of("\n".join(lines[chunk.start_line - 1 : chunk.end_line])),
                    **_name_fields(_symbols_in(old.symbols, chunk), defines=chunk.defines),
                    **path_fields,
                },
                words=None,
            )
            for chunk in old.chunks
        ]
        self._writer.add(
            FileRow(
                path=path,
                blob=entry.blob,
                language=_language(entry),
                lines=old.lines,
                text=old.text,
                prior=path_prior(path),
                chunks=chunks,
                symbols=old.symbols,
                imports=old.imports,
            ),
            old.vectors,
        )
        self.indexed += 1
        self.carried += 1
        self._step()

    def _take(self, entry: Entry, content: bytes | None) -> None:
        if content is None:
            self._skip(entry, SkipReason.TOO_LARGE)
            return
        text = text_of(content, entry.path)
        if isinstance(text, SkipReason):
            self._skip(entry, text)
            return
        language = _language(entry)
        cut = chunk_file(text, language)
        if not cut.chunks:
            self._skip(entry, SkipReason.EMPTY)
            return
        rows, passages = _rows(shown_path(entry.path), cut.chunks)
        self._waiting.append((entry, language, text, cut, rows, passages))
        self._waiting_chunks += len(rows)
        if self._waiting_chunks >= _BATCH_CHUNKS:
            self._flush()
        self._step()

    def _flush(self) -> None:
        if not self._waiting:
            return
        embedded = self._embedder.embed([passage for *_, passages in self._waiting for passage in passages])
        self.cost_usd += embedded.cost_usd
        small = quantized(embedded.vectors)
        begin = 0
        for entry, language, text, cut, rows, _ in self._waiting:
            path = shown_path(entry.path)
            self._writer.add(
                FileRow(
                    path=path,
                    blob=entry.blob,
                    language=language,
                    lines=cut.lines,
                    text=text,
                    prior=path_prior(path),
                    chunks=rows,
                    symbols=[SymbolRow(s.name, s.kind, s.start_line, s.end_line, s.parent) for s in cut.symbols],
                    imports=cut.imports,
                ),
                small[begin : begin + len(rows)],
            )
            begin += len(rows)
            self.indexed += 1
        self._waiting.clear()
        self._waiting_chunks = 0


def _touches_ignore(change: Change) -> bool:
    return IGNORE_FILE in change.removed or any(entry.path == IGNORE_FILE for entry in change.changed)


def _language(entry: Entry) -> str:
    return language_of(entry.path) or "text"


def _path_fields(path: str) -> dict[str, str]:
    return {"path": words_of(path.rpartition("/")[0]), "stem": " ".join(stem_words(path))}


def _name_fields(symbols: Sequence[Symbol | SymbolRow], *, defines: bool) -> dict[str, str]:
    listed = symbols[:_MAX_NAMES]
    parents = dict.fromkeys(symbol.parent for symbol in listed if symbol.parent)
    names = words_of(" ".join([*parents, *(symbol.name for symbol in listed)]))
    exact = " ".join(dict.fromkeys(compact(symbol.name) for symbol in listed)) if defines else ""
    return {"names": names, "exact": exact}


def _symbols_in(symbols: Sequence[SymbolRow], chunk: ChunkRow) -> list[SymbolRow]:
    """What ``chunks.Chunk.symbols`` held when the chunk was cut."""
    inside = [symbol for symbol in symbols if chunk.start_line <= symbol.start_line <= chunk.end_line]
    if inside or not chunk.symbol:
        return inside
    around = [symbol for symbol in symbols if symbol.start_line < chunk.start_line <= symbol.end_line]
    return around[-1:]


def _rows(path: str, chunks: Sequence[Chunk]) -> tuple[list[ChunkRow], list[Passage]]:
    rows: list[ChunkRow] = []
    passages: list[Passage] = []
    path_fields = _path_fields(path)
    path_words = {word for words in path_fields.values() for word in words.split()}
    for chunk in chunks:
        body = words_of(chunk.text)
        name_fields = _name_fields(chunk.symbols, defines=chunk.defines)
        words = set(body.split())
        words.update(name_fields["names"].split())
        passages.append(Passage(chunk.text, words))
        first = chunk.symbols[0] if chunk.symbols else None
        rows.append(
            ChunkRow(
                chunk.start_line,
                chunk.end_line,
                first.qualified if first else "",
                first.kind if first else "",
                tuple(sorted({symbol.kind for symbol in chunk.symbols})),
                chunk.defines,
                {"body": body, **name_fields, **path_fields},
                words | path_words,
            )
        )
    return rows, passages


def quantized(vectors: NDArray[np.float32]) -> NDArray[np.int8]:
    """Unit vectors as int8, 127 standing for 1."""
    try:
        import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra
    except ImportError as error:  # pragma: no cover - the embedder needed it before
        raise ExtraMissing("codebase indexing needs the 'index' extra: pip install 'corral[index]'") from error
    return np.rint(np.clip(vectors, -1, 1) * 127).astype(np.int8)
