"""Which of a chunk's definitions an answer is told under: the one that was asked for, else the first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from corral.adapters.index.port import Filters, IndexReader, StoredChunk, StoredSymbol
from corral.jobs.codebase_indexing.ranking import Question, compact


def named_as_asked(
    reader: IndexReader, question: Question, filters: Filters, chunks: Iterable[StoredChunk]
) -> Iterator[StoredChunk]:
    """The chunks, each under its definition that the question names, or that is of a kind that was asked for.

    Args:
        reader: Where they are from; asked for the symbols of a file only when there seems to be a better one.
        question: What was asked.
        filters: What the hits had to be.
        chunks: As stored, under their first definition.
    """
    for chunk in chunks:
        named = _may_define(question, chunk)
        of_kind = bool(filters.kinds) and chunk.kind not in filters.kinds
        if not named and not of_kind:
            yield chunk
            continue
        inside = [
            symbol
            for symbol in reader.symbols_of(chunk.path)
            if chunk.start_line <= symbol.start_line <= chunk.end_line
            and (not filters.kinds or symbol.kind in filters.kinds)
        ]
        asked = next((symbol for symbol in inside if compact(symbol.name) in question.names), None)
        best = asked or (inside[0] if of_kind and inside else None)
        yield chunk if best is None else replace(chunk, symbol=_qualified(best), kind=best.kind)


def _may_define(question: Question, chunk: StoredChunk) -> bool:
    """Whether a name of the question is in a chunk that is called after another one."""
    if not question.names or not chunk.defines or compact(chunk.symbol.rpartition(".")[2]) in question.names:
        return False
    text = chunk.text.lower().replace("_", "")
    return any(name in text for name in question.names)


def _qualified(symbol: StoredSymbol) -> str:
    return f"{symbol.parent}.{symbol.name}" if symbol.parent else symbol.name
