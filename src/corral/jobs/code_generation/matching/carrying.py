"""Carrying a change over to the lines that are really there.

The forgiving rungs never write the model's version of lines that it merely quoted. What the model changed (its search
text against its replacement) is carried over; where the quoted and the real lines disagree about a line that the change
touches, it is a miss.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from corral.jobs.code_generation.matching.found import How, Missed, Placed, nearest_lines
from corral.jobs.code_generation.matching.indentation import UnknownIndentationError, indentation_map, indenter
from corral.jobs.code_generation.matching.lines import dense
from corral.jobs.code_generation.matching.resemblance import aligned


def carried(
    real: Sequence[str], search: Sequence[str], replace: Sequence[str], adapt: Callable[[str], str] = lambda line: line
) -> tuple[str, ...]:
    """The replacement, with every line that the model only quoted as it really is; both have as many lines."""
    new: list[str] = []
    matcher = difflib.SequenceMatcher(None, list(search), list(replace), autojunk=False)
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal":
            new.extend(real[old_start:old_end])
        else:
            new.extend(adapt(line) for line in replace[new_start:new_end])
    return tuple(new)


def merged(
    lines: Sequence[str],
    start: int,
    end: int,
    search: Sequence[str],
    replace: Sequence[str],
    *,
    how: How,
    similarity: float,
) -> Placed | Missed:
    """Apply what the model changed to the lines that are really there, or say why that can't be told."""
    real = list(lines[start:end])
    known = _Known(real, search)
    mapping = indentation_map(*known.equal_lines())
    if mapping is None:
        return _conflict(lines, search, "the indentation differs from line to line")
    adapt = indenter(mapping)
    new: list[str] = []
    copied = 0
    matcher = difflib.SequenceMatcher(None, list(search), list(replace), autojunk=False)
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if tag == "equal":
            continue
        span = known.span(old_start, old_end)
        if span is None or span[0] < copied:
            return _conflict(lines, search, "the lines that you change are not what you quoted")
        new.extend(real[copied : span[0]])
        try:
            new.extend(adapt(line) for line in replace[new_start:new_end])
        except UnknownIndentationError:
            return _conflict(lines, search, "the new lines' indentation can't be told")
        copied = span[1]
    new.extend(real[copied:])
    return Placed(start=start, end=end, lines=tuple(new), how=how, similarity=similarity)


class _Known:
    """Which real line each quoted line is, as far as that is certain."""

    def __init__(self, real: Sequence[str], search: Sequence[str]) -> None:
        self._real = real
        self._search = search
        pairs = aligned([dense(line) for line in real], [dense(line) for line in search])
        #: The real line of a quoted one, or of an earlier version of it.
        self._version = {quoted: actual for actual, quoted, _ in pairs}
        #: Likewise, for those that are equal but for white space.
        self._where = {quoted: actual for actual, quoted, _ in pairs if dense(real[actual]) == dense(search[quoted])}

    def equal_lines(self) -> tuple[list[str], list[str]]:
        """Quoted and real lines that are the same, side by side."""
        solid = [at for at in sorted(self._where) if self._search[at].strip()]
        return [self._search[at] for at in solid], [self._real[self._where[at]] for at in solid]

    def span(self, start: int, end: int) -> tuple[int, int] | None:
        """The real lines that the quoted lines ``start`` to ``end`` are; None when that is not certain."""
        return self._lines(start, end) if end > start else self._gap(start)

    def _lines(self, start: int, end: int) -> tuple[int, int] | None:
        if any(at not in self._where for at in range(start, end)):
            return None
        first, last = self._where[start], self._where[end - 1]
        # Otherwise the file has lines in between that the model didn't know of.
        return (first, last + 1) if last - first == end - 1 - start else None

    def _gap(self, at: int) -> tuple[int, int] | None:
        """Where an insertion goes: between two lines that are neighbours in the file too, one of them unchanged."""
        before, after = at - 1, at
        if not {before, after} & self._where.keys():
            return None
        left = self._version.get(before, -1) + 1 if before >= 0 else None
        right = self._version.get(after) if after < len(self._search) else None
        if before >= 0 and after < len(self._search):
            known = before in self._version and after in self._version
            return (right, right) if known and right is not None and left == right else None
        edge = right if left is None else left
        return None if edge is None else (edge, edge)


def _conflict(lines: Sequence[str], search: Sequence[str], why: str) -> Missed:
    return Missed(why=f"{why}; quote the present lines", nearest=nearest_lines(lines, search))
