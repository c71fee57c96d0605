"""Names in questions and answers: which definition is meant, and what a hit is called after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Final

from corral.adapters.index.port import Filters, IndexReader, StoredChunk, StoredSymbol
from corral.jobs.codebase_indexing.ranking import Question, compact

_MOST_NAMESAKES: Final = 2000


def named_as_asked(
    reader: IndexReader, question: Question, filters: Filters, chunks: Iterable[StoredChunk]
) -> Iterator[StoredChunk]:
    """The chunks, each under its definition that the question names, or that is of a kind that was asked for.

    Args:
        reader: Where they are from; asked for a chunk's symbols only when there seems to be a better one.
        question: What was asked.
        filters: What the hits had to be.
        chunks: As stored, under their first definition.
    """
    if not question.names and not filters.kinds:
        yield from chunks
        return
    for chunk in chunks:
        named = _may_define(question, chunk)
        of_kind = bool(filters.kinds) and chunk.kind not in filters.kinds
        if not named and not of_kind:
            yield chunk
            continue
        inside = [
            symbol
            for symbol in reader.symbols_of(chunk.path, chunk.start_line, chunk.end_line)
            if not filters.kinds or symbol.kind in filters.kinds
        ]
        asked = next((symbol for symbol in inside if compact(symbol.name) in question.names), None)
        best = asked or (inside[0] if of_kind and inside else None)
        yield chunk if best is None else chunk._replace(symbol=_qualified(best), kind=best.kind)


def _may_define(question: Question, chunk: StoredChunk) -> bool:
    """Whether a name of the question is in a chunk that is called after another one."""
    if not question.names or not chunk.defines or compact(chunk.symbol.rpartition(".")[2]) in question.names:
        return False
    text = chunk.text.lower().replace("_", "")
    return any(name in text for name in question.names)


def _qualified(symbol: StoredSymbol) -> str:
    return f"{symbol.parent}.{symbol.name}" if symbol.parent else symbol.name


def definitions_of(reader: IndexReader, name: str, limit: int) -> list[StoredSymbol]:
    """Where a name is defined; it may say inside of what class or module, by points, ``::`` or ``#``."""
    found = reader.definitions(name, limit)
    parent, _, last = name.replace("::", ".").replace("#", ".").rpartition(".")
    if found or not parent or not last:
        return found
    return [symbol for symbol in reader.definitions(last, _MOST_NAMESAKES) if _is_inside(symbol, parent)][:limit]


def _is_inside(symbol: StoredSymbol, parent: str) -> bool:
    """Whether a definition is inside of what is so called: a class, a module, or both."""
    if not symbol.parent:
        return f"/{parent.replace('.', '/')}." in f"/{symbol.path}"
    own = f".{symbol.parent.replace('::', '.')}"
    return own.endswith(f".{parent}") or f".{parent}".endswith(own)


def unknown_file(reader: IndexReader, path: str) -> str:
    """What somebody is told who asks for a file that the index doesn't hold; they may have mistaken the folder."""
    known = reader.files()
    if path in known:
        return f"{path!r} was left out of the index: it is no code or text, or too large, generated, secret or ignored"
    name = PurePosixPath(path).name
    found = sorted(other for other in known if PurePosixPath(other).name == name)[:3]
    return f"the index holds no file {path!r}" + (f"; there is {', '.join(found)}" if found and name else "")
