"""Ask an index: what code answers this, and what is around it."""

from __future__ import annotations

import asyncio
import posixpath
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import TypeVar

from corral.adapters.embedder.port import Embedder
from corral.adapters.index.port import (
    Filters,
    IndexName,
    IndexReader,
    IndexState,
    IndexStore,
    LexicalQuery,
    StoredChunk,
    StoredSymbol,
)
from corral.errors import SearchFailed
from corral.jobs.codebase_indexing.languages import KINDS
from corral.jobs.codebase_indexing.naming import definitions_of, named_as_asked, unknown_file
from corral.jobs.codebase_indexing.python_imports import modules_from_packages, python_importers
from corral.jobs.codebase_indexing.ranking import (
    CANDIDATES,
    WEIGHTS,
    Stems,
    Weights,
    rank,
    terms,
    understood,
    why,
)

T = TypeVar("T")

_OPEN_INDEXES = 16
_CHARS_PER_TOKEN = 3.6
"""Of code, by the tokenizers of today's models: 3.3 to 4.1."""
_MAX_QUERY_CHARS = 4000
_SYMBOL_LABEL_TOKENS = 16
"""Of a definition in a list: its lines, and what the fields are called."""


@dataclass(slots=True, kw_only=True)  # not frozen, which makes it thrice as dear: a search makes many
class SearchHit:
    """One piece of code that answers a question; lines count from 1, both ends belong to it."""

    path: str
    start_line: int
    end_line: int
    #: What is defined there, as ``Parent.name``; ``""`` when nothing is.
    symbol: str
    #: ``function``, ``method``, ``class``, …; ``""`` without a symbol.
    kind: str
    language: str
    #: Comparable within one answer only.
    score: float
    #: What made it a hit, for people.
    why: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbourhood:
    """What an agent should see beside a file, within a budget of tokens."""

    path: str
    #: The file's definitions, in order.
    symbols: tuple[StoredSymbol, ...]
    #: What it imports, as written.
    imports: tuple[str, ...]
    #: Files of this project that it imports.
    imported_files: tuple[str, ...]
    #: Files that import it.
    importers: tuple[str, ...]
    #: Files that test it.
    tests: tuple[str, ...]
    #: Code that uses its definitions, best first.
    callers: tuple[SearchHit, ...]
    #: How many entries of these lists the budget had no room for.
    left_out: int = 0


class _Paths:
    """All paths of an index, skipped files' among them."""

    def __init__(self, paths: Iterable[str]) -> None:
        self.all = frozenset(paths)
        #: What a file's name begins with, up to its first dot, to the paths of such files.
        self.by_stem: dict[str, list[str]] = {}
        for path in self.all:
            self.by_stem.setdefault(path.rpartition("/")[2].partition(".")[0], []).append(path)


@dataclass(slots=True)
class _Open:
    reader: IndexReader
    generation: int
    stems: Stems
    users: int = 0
    stale: bool = False
    #: Made when a file's neighbourhood is asked for the first time.
    paths: _Paths | None = None


class CodeSearch:
    """Answers from the indexes of all projects; one instance serves a whole process.

    Args:
        store: Where the indexes are.
        embedder: The one that made them; an index of another's vectors is asked by words alone.
        weights: What counts how much.
    """

    def __init__(self, store: IndexStore, embedder: Embedder | None, *, weights: Weights = WEIGHTS) -> None:
        self._store = store
        self._embedder = embedder
        self._weights = weights
        self._open: OrderedDict[IndexName, _Open] = OrderedDict()
        self._lock = threading.Lock()

    async def search(
        self,
        project_id: str,
        query: str,
        *,
        limit: int = 10,
        branch: str = "",
        languages: Iterable[str] = (),
        paths: Sequence[str] = (),
        kinds: Iterable[str] = (),
    ) -> list[SearchHit]:
        """The best pieces of code for a question or a name.

        Args:
            project_id: Whose code.
            query: A question, an error message, a name.
            limit: At most so many hits.
            branch: ``""`` is the default branch; a branch that has no index of its own is answered from that one.
            languages: Only these; the case doesn't matter, nor that of kinds.
            paths: Only files that fit one of these shell-style patterns; ``src/`` means everything below it.
            kinds: Only chunks in which something of these kinds is defined.

        Returns:
            Best first; empty when nothing has a word in common with the question.

        Raises:
            SearchFailed: ``not_indexed`` when the project has no index; or it can't be read.
        """
        filters = Filters(frozenset(map(str.lower, languages)), tuple(paths), frozenset(map(str.lower, kinds)))
        return await asyncio.to_thread(self.search_now, project_id, query, limit=limit, branch=branch, filters=filters)

    async def unknown_filters(
        self, project_id: str, *, branch: str = "", languages: Iterable[str] = (), kinds: Iterable[str] = ()
    ) -> str:
        """What to tell somebody who found nothing, if there is no such filter; ``""`` if there is.

        Raises:
            SearchFailed: ``not_indexed``, or it can't be read.
        """
        for what, asked, known in (
            ("language", languages, (await self.state(project_id, branch=branch)).languages),
            ("kind", kinds, KINDS),
        ):
            unknown = sorted(set(map(str.lower, asked)) - set(known))
            if unknown:
                return f"no {what} here is called {', '.join(unknown)}; there are {', '.join(known)}"
        return ""

    def search_now(
        self, project_id: str, query: str, *, limit: int = 10, branch: str = "", filters: Filters | None = None
    ) -> list[SearchHit]:
        """As ``search``, in the caller's thread."""
        if limit < 1 or not query.strip():
            return []
        return self._with_reader(
            project_id,
            branch,
            lambda opened: self._search(opened, query[:_MAX_QUERY_CHARS], limit, filters or Filters()),
        )

    async def state(self, project_id: str, *, branch: str = "") -> IndexState:
        """What the index of a project holds.

        Raises:
            SearchFailed: ``not_indexed``, or it can't be read.
        """
        return await asyncio.to_thread(self._with_reader, project_id, branch, lambda opened: opened.reader.state)

    async def definitions(self, project_id: str, name: str, *, branch: str = "", limit: int = 50) -> list[StoredSymbol]:
        """Where a name is defined; the case matters. It may say inside of what: ``Cart.add``, ``shop::Cart::add``.

        Raises:
            SearchFailed: ``not_indexed``, or it can't be read.
        """
        return await asyncio.to_thread(
            self._with_reader, project_id, branch, lambda opened: definitions_of(opened.reader, name, limit)
        )

    async def context(
        self, project_id: str, query: str, *, max_tokens: int, branch: str = "", paths: Sequence[str] = ()
    ) -> list[SearchHit]:
        """As ``search``, as many hits as fit into a budget of tokens; the last one may be cut short.

        Raises:
            SearchFailed: ``not_indexed``, or it can't be read.
        """
        hits = await self.search(project_id, query, limit=60, branch=branch, paths=paths)
        return within_budget(hits, max_tokens)

    async def neighbourhood(
        self, project_id: str, path: str, *, max_tokens: int = 4000, branch: str = ""
    ) -> Neighbourhood:
        """What is around a file: what it imports, what imports it, its tests, code that uses its definitions.

        All of it together stays within the budget, roughly; lists get at most half of it, code what they leave.

        Raises:
            SearchFailed: ``not_indexed``, ``unknown_file``, or it can't be read.
        """
        return await asyncio.to_thread(
            self._with_reader, project_id, branch, lambda opened: self._neighbourhood(opened, path, max_tokens)
        )

    def close(self) -> None:
        """Let go of all indexes."""
        with self._lock:
            for opened in self._open.values():
                opened.reader.close()
            self._open.clear()

    # --- which generation

    def _with_reader(self, project_id: str, branch: str, ask: Callable[[_Open], T]) -> T:
        opened = self._acquire(IndexName(project_id, branch))
        if opened is None and branch:
            opened = self._acquire(IndexName(project_id))
        if opened is None:
            raise not_indexed(project_id)
        try:
            return ask(opened)
        finally:
            self._release(opened)

    def _acquire(self, name: IndexName) -> _Open | None:
        generation = self._store.current(name)
        with self._lock:
            opened = self._open.get(name)
            if opened is not None and opened.generation == generation:
                opened.users += 1
                self._open.move_to_end(name)
                return opened
            if generation is None:
                self._retire(self._open.pop(name, None))  # removed, or its branch is gone
        if generation is None:
            return None
        reader = self._store.open(name)
        if reader is None:
            return None
        fresh = _Open(reader, reader.state.generation, Stems(reader.paths), users=1)
        with self._lock:
            self._retire(self._open.pop(name, None))
            self._open[name] = fresh
            while len(self._open) > _OPEN_INDEXES:
                self._retire(self._open.popitem(last=False)[1])
        return fresh

    def _release(self, opened: _Open) -> None:
        with self._lock:
            opened.users -= 1
            if opened.stale and not opened.users:
                opened.reader.close()

    @staticmethod
    def _retire(opened: _Open | None) -> None:
        """Close it now, or when its last search ends; the lock is held."""
        if opened is None:
            return
        opened.stale = True
        if not opened.users:
            opened.reader.close()

    # --- one search

    def _search(self, opened: _Open, query: str, limit: int, filters: Filters) -> list[SearchHit]:
        reader, embedder = opened.reader, self._embedder
        question = understood(query)
        words = [word for word, _ in question.words]
        vector = None
        made_by = (reader.state.embedder, reader.state.dimension)
        if embedder is not None and (embedder.name, embedder.dimension) == made_by and not question.bare:
            vector = embedder.embed_query(query)
        asked = LexicalQuery(terms(question, self._weights), filters, words, vector)
        found = reader.candidates(asked, max(CANDIDATES, limit))
        if not len(found.uids) and vector is not None and vector.any():
            # No word in common: meaning is all there is, if any of the words means anything to the embedder.
            found = reader.nearest(vector, limit, filters, words)
        if not len(found.uids):
            return []
        weight = embedder.fusion_weight if embedder is not None else 0.0
        ranked = rank(question, found, opened.stems, weight, self._weights)
        best = ranked.order[:limit]
        index_of = dict(zip(found.uids[best].tolist(), best.tolist(), strict=True))
        hits = []
        for chunk in named_as_asked(reader, question, filters, reader.chunks(list(index_of))):
            index = index_of[chunk.uid]
            similarity = 0.0 if found.similarities is None else float(found.similarities[index])
            reason = why(question, chunk, found.held[index].tolist(), similarity)
            hits.append(_hit(chunk, float(ranked.scores[index]), reason))
        return hits

    # --- around a file

    def _neighbourhood(self, opened: _Open, path: str, max_tokens: int) -> Neighbourhood:
        reader = opened.reader
        path = posixpath.normpath(path)
        if reader.file(path) is None:
            raise SearchFailed(
                unknown_file(reader, path),
                service="index",
                operation="neighbourhood",
                retryable=False,
                reason="unknown_file",
            )
        symbols = reader.symbols_of(path)
        imports = reader.imports_of(path)
        importers = [found for found in reader.importers(import_names(path)) if found != path]
        modules: Iterable[str] = ()
        if path.endswith(".py"):
            importers = python_importers(reader, path, importers)
            modules = modules_from_packages(reader, path)
        if opened.paths is None:
            opened.paths = _Paths(reader.files())
        known = opened.paths
        tests = _tests_of(known, path, importers)
        callers = self._callers(opened, path, symbols, importers)
        imported = sorted(
            {found for name in (*imports, *modules) for found in resolved_imports(name, path) if found in known.all}
            - {path}
        )
        purse = _Purse(max_tokens // 2)
        told = Neighbourhood(
            path=path,
            # What everybody imports or tests leaves room for what it is.
            tests=purse.pay(tests, token_estimate, share=0.5),
            imported_files=purse.pay(imported, token_estimate, share=0.5),
            importers=purse.pay(importers, token_estimate, share=0.5),
            symbols=purse.pay(symbols, _symbol_tokens),
            imports=purse.pay(imports, token_estimate),
            callers=tuple(within_budget(callers, max_tokens - max_tokens // 2 + purse.left)),
        )
        return replace(told, left_out=purse.refused + len(callers) - len(told.callers))

    def _callers(
        self, opened: _Open, path: str, symbols: Sequence[StoredSymbol], importers: Sequence[str]
    ) -> list[SearchHit]:
        names = [symbol.name for symbol in symbols if not symbol.parent and len(symbol.name) > 2][:12]
        hits: dict[tuple[str, int], SearchHit] = {}
        near = set(importers)
        for name in names:
            for hit in self._search(opened, name, 8, Filters()):
                if hit.path != path and name in hit.text:
                    bonus = 1.0 if hit.path in near else 0.0
                    key = (hit.path, hit.start_line)
                    if key not in hits or hits[key].score < hit.score + bonus:
                        hits[key] = SearchHit(
                            path=hit.path,
                            start_line=hit.start_line,
                            end_line=hit.end_line,
                            symbol=hit.symbol,
                            kind=hit.kind,
                            language=hit.language,
                            score=hit.score + bonus,
                            why=f"uses {name}",
                            text=hit.text,
                        )
        return sorted(hits.values(), key=lambda hit: -hit.score)


def _tests_of(known: _Paths, path: str, importers: Sequence[str]) -> list[str]:
    stem = PurePosixPath(path).name.split(".")[0]
    tests = {
        other
        for name in (f"test_{stem}", f"{stem}_test", f"{stem}Test", f"{stem}Tests", f"Test{stem}", f"{stem}_spec")
        for other in known.by_stem.get(name, ())
    }
    for other in known.by_stem.get(stem, ()):
        *folders, name = other.split("/")
        if name.startswith((f"{stem}.test.", f"{stem}.spec.")) or not {"tests", "test", "__tests__"}.isdisjoint(
            folders
        ):
            tests.add(other)
    tests.discard(path)
    return sorted(tests) + [other for other in importers if "test" in other.lower() and other not in tests]


def _hit(chunk: StoredChunk, score: float, reason: str) -> SearchHit:
    return SearchHit(
        path=chunk.path,
        start_line=chunk.start_line,
        end_line=chunk.end_line,
        symbol=chunk.symbol,
        kind=chunk.kind,
        language=chunk.language,
        score=round(score, 4),
        why=reason,
        text=chunk.text,
    )


def not_indexed(project_id: str) -> SearchFailed:
    """What somebody is told who asks a project that has no index, or that is none of theirs."""
    return SearchFailed(
        f"project {project_id!r} has no index yet: run `corral index {project_id}`, or add a codebase-indexing job",
        service="index",
        operation="search",
        retryable=False,
        reason="not_indexed",
    )


def _symbol_tokens(symbol: StoredSymbol) -> int:
    return token_estimate(f"{symbol.parent} {symbol.name} {symbol.kind}") + _SYMBOL_LABEL_TOKENS


class _Purse:
    """A budget of tokens for lists, spent in the order of their worth."""

    def __init__(self, tokens: int) -> None:
        self.left = tokens
        self.refused = 0

    def pay(self, entries: Sequence[T], cost: Callable[[T], int], *, share: float = 1.0) -> tuple[T, ...]:
        """As many entries as there is room for in a share of what is left."""
        kept = []
        keep = self.left - int(self.left * share)
        for entry in entries:
            price = cost(entry)
            if price > self.left - keep:
                break
            self.left -= price
            kept.append(entry)
        self.refused += len(entries) - len(kept)
        return tuple(kept)


def token_estimate(text: str) -> int:
    """About how many tokens a model makes of a piece of code."""
    return int(len(text) / _CHARS_PER_TOKEN) + 8


def within_budget(hits: Sequence[SearchHit], max_tokens: int) -> list[SearchHit]:
    """As many hits as fit, in their order; the one that crosses the budget is cut at a line."""
    kept: list[SearchHit] = []
    left = max_tokens
    for hit in hits:
        cost = token_estimate(hit.text)
        if cost <= left:
            kept.append(hit)
            left -= cost
            continue
        lines = hit.text.split("\n")
        while lines and token_estimate("\n".join(lines)) > left:
            lines.pop()
        if len(lines) >= 3:
            kept.append(
                SearchHit(
                    path=hit.path,
                    start_line=hit.start_line,
                    end_line=hit.start_line + len(lines) - 1,
                    symbol=hit.symbol,
                    kind=hit.kind,
                    language=hit.language,
                    score=hit.score,
                    why=hit.why,
                    text="\n".join(lines),
                )
            )
        break
    return kept


def import_names(path: str) -> list[str]:
    """How other files may name this one when they import it, from the longest to the shortest likely form."""
    pure = PurePosixPath(path)
    parts = [*pure.parts[:-1], pure.name.split(".")[0]]
    if parts[-1] in {"__init__", "index", "mod"} and len(parts) > 1:
        parts.pop()
    names: dict[str, None] = {}
    for begin in range(len(parts)):
        tail = parts[begin:]
        for joint in (".", "/", "::"):
            names[joint.join(tail)] = None
        names["./" + "/".join(tail)] = None
        names["../" + "/".join(tail)] = None
        names["." + ".".join(tail)] = None
        for ending in (".js", ".ts", ".h", ".hpp", ".css", ".php", ".rb"):
            names["/".join(tail) + ending] = None
            names["./" + "/".join(tail) + ending] = None
            names["../" + "/".join(tail) + ending] = None
    if len(parts) > 1:
        names.pop(parts[-1], None)  # ``import query`` alone says too little
    return list(names)


def resolved_imports(name: str, importer: str) -> list[str]:
    """Paths that an import may mean, relative to the importing file or to the usual roots."""
    folder = PurePosixPath(importer).parent
    if name.startswith(("./", "../")):
        base = folder
        tail = name
        while tail.startswith(("./", "../")):
            if tail.startswith("../"):
                base, tail = base.parent, tail[3:]
            else:
                tail = tail[2:]
        stems = [str(base / tail)]
    elif name.startswith("."):
        base, tail = folder, name[1:]
        while tail.startswith("."):
            base, tail = base.parent, tail[1:]
        stems = [str(base / tail.replace(".", "/"))]
    else:
        tail = name.replace("::", "/") if "::" in name else (name if "/" in name else name.replace(".", "/"))
        stems = [tail, f"src/{tail}", f"lib/{tail}", str(folder / tail)]
    endings = ("", ".py", "/__init__.py", ".ts", ".tsx", ".js", ".jsx", "/index.ts", "/index.js", ".go", ".rs", ".java")
    return [stem + ending for stem in stems for ending in endings]
