"""Python's definitions by scanning: a tree of it costs four times as much, and indentation says all.

A definition begins a line and ends before the next line that is indented no deeper, unless that line is blank, a
comment, inside a string, or begins with a closing bracket. One pass skips strings and comments, so that code in a
docstring defines nothing. The cases in which this differs from the grammar are that a bracket's content is indented
less than the statement that it belongs to, and that the file is no valid Python; both only move an end.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import accumulate, count
from operator import add

from corral.jobs.codebase_indexing.languages import CLASS, FUNCTION

# Every string and comment is matched to some end, closed or not, so that no text is looked at twice. What is of no
# interest is skipped within a match, as each match costs more than the few characters that it is about.
_SKIPPED = (
    r"""(?:[^"'\#\n]++"""
    r"""|"(?!"")(?>[^"\\\n]+|\\.?)*+"?|'(?!'')(?>[^'\\\n]+|\\.?)*+'?|\#[^\n]*+"""
    r"""|\n(?![ \t]*+(?:async[ \t]++)?+(?:def|class)[ \t]++\w))*+"""
)
_TOKEN = re.compile(
    _SKIPPED + r"""(?:"(""(?>[^"\\]+|\\.?|"(?!""))*+(?:"{3})?)|'(''(?>[^'\\]+|\\.?|'(?!''))*+(?:'{3})?)"""
    r"""|\n([ \t]*)(?:async[ \t]+)?(def|class)[ \t]+(\w+)|\Z)""",
    re.DOTALL,
)

_STRINGS = (1, 2)
_NAME = 5
_MAX_INDENT = 400
"""Nobody reads what is nested deeper; each depth may cost one more look at the text."""

Found = tuple[tuple[int, int], int, int, str, str]
"""First character and negative end, for the order; first and last row; kind; name."""


@cache
def _line_of_at_most(indent: int) -> re.Pattern[str]:
    return re.compile(rf"\n[ \t]{{0,{indent}}}(?![\s#)\]}}])")


def python_definitions(text: str, lines: Sequence[str]) -> list[Found]:
    r"""Functions and classes in the order of their beginnings, outer before inner.

    Args:
        text: The file's text, with ``\n`` as its line end.
        lines: The same, split.
    """
    begun: list[tuple[int, int, int, str, str]] = []
    strings: list[tuple[int, int]] = []
    for match in _TOKEN.finditer("\n" + text):  # a definition follows a line's end: so does one at the beginning
        which = match.lastindex
        if which == _NAME and len(match[3]) <= _MAX_INDENT:
            kind = CLASS if match[4] == "class" else FUNCTION
            begun.append((match.start(3) - 1, match.end() - 1, len(match[3]), kind, match[5]))
        elif which in _STRINGS and "\n" in match[which]:
            strings.append((match.start(which) - 2, match.end() - 1))
    if not begun:
        return []
    starts = list(map(add, accumulate(map(len, lines), initial=0), count()))  # each line's end takes one place
    ends = _Ends(text, lines, starts, strings)
    found: list[Found] = []
    for begin, head, indent, kind, name in begun:
        last = ends.of(head, indent)
        row = bisect_right(starts, begin) - 1
        found.append(((begin, -starts[last + 1]), row, max(row, last), kind, name))
    return found


class _Ends:
    def __init__(
        self, text: str, lines: Sequence[str], starts: Sequence[int], strings: Sequence[tuple[int, int]]
    ) -> None:
        self._text, self._lines, self._starts, self._strings = text, lines, starts, strings
        self._string_starts = [begin for begin, _ in strings]

    def of(self, head: int, indent: int) -> int:
        """Last row of the definition whose head ends at a place."""
        after = len(self._lines)
        for place in self._shallow(head, indent):
            after = bisect_right(self._starts, place) - 1
            break
        last = after - 1
        while last > 0 and (not (line := self._lines[last].strip()) or line.startswith("#")):
            last -= 1
        return last

    def _shallow(self, head: int, indent: int) -> Iterator[int]:
        """Beginnings of lines after a place that are indented no deeper and in no string."""
        pattern = _line_of_at_most(indent)
        at = head
        while match := pattern.search(self._text, at):
            place = match.start() + 1
            number = bisect_right(self._string_starts, place) - 1
            if number >= 0 and place < self._strings[number][1]:
                at = self._strings[number][1]
            elif place < len(self._text):
                yield place
                at = place
            else:
                return
