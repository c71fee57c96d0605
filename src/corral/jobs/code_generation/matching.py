"""Finding the place that a model meant when it quoted a file from memory.

A ladder of ever more forgiving comparisons; each rung is only tried when the one above found nothing, and a rung counts
only when it finds exactly one place. Nothing ever lands at the better of two places: a tie is a miss.

The fuzzy rungs never write the model's version of lines that it merely quoted. What the model changed (its search text
against its replacement) is carried over to the lines that are really there; where the two disagree about a line that
the change touches, it is a miss.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

FUZZY_THRESHOLD = 0.85
"""Least similarity of a whole block."""
_RIVAL_SHARE = 0.5
"""Of a block's characters: as much, found as quoted in another place, makes a forgiving match doubtful."""
_FUZZY_MARGIN = 0.1
"""How much better the best place must be than the second best."""
_FUZZY_LEAST_LINES = 3
"""Shorter blocks say too little to be found by resemblance."""
_FUZZY_MOST_LINES = 400
_MOST_ALIKE = 20_000
"""Pairs of equal lines in a block: one that repeats itself so much is like any place, and takes minutes to compare."""
_MOST_COMPARED = 4_000_000
"""Pairs of a quoted and a new line; likewise."""
_LONGEST_COMPARED = 2000
"""Characters of a line; longer ones (data, generated code) are equal or they are not."""
_LOOK_ALIKES = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'",
        "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"', "\u2033": '"', "\u00ab": '"', "\u00bb": '"',
        "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2015": "-", "\u2212": "-",
        "\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ",
        "\u200b": None, "\u200c": None, "\u200d": None, "\ufeff": None,
        "\u2026": "...",
    }
)  # fmt: skip
_ELIDED = re.compile(r"^\s*(?:#|//|/\*|--|<!--|;|%)?\s*(?:\.\.\.|…)\s*(?:\*/|-->)?\s*$")
_MARKED_ELISION = re.compile(
    r"^\s*(?:#|//|/\*|--|<!--|;|%)\s*(?:\.\.\.|…).*(?:code|unchanged|rest|existing|same|omitted).*$", re.IGNORECASE
)


class How(StrEnum):
    """Which rung found the place."""

    EXACT = "exact"
    TRAILING_SPACE = "trailing-space"
    LOOK_ALIKES = "look-alikes"
    INDENTATION = "indentation"
    SPACING = "spacing"
    ELIDED = "elided"
    FUZZY = "fuzzy"


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where a block was found, and what its lines become."""

    start: int
    """Index of the first line."""
    end: int
    """Index after the last line."""
    lines: tuple[str, ...]
    """What replaces them."""
    how: How
    similarity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Missed:
    """Why a block has no place; for the model."""

    why: str
    nearest: str = ""
    """The lines of the file that come nearest, with their numbers."""


def place(lines: Sequence[str], search: Sequence[str], replace: Sequence[str]) -> Placed | Missed:
    """Find the one place of ``search`` in ``lines``.

    Args:
        lines: The file.
        search: What the model says is there.
        replace: What it shall be instead.
    """
    search, replace = _without_blank_edges(search, replace)
    if not any(line.strip() for line in search):
        return Missed(why="the search text is empty; quote the lines that are to be changed")
    for how, normal in _EQUALITIES:
        if how is not How.EXACT and len(search) * len(replace) > _MOST_COMPARED:
            return Missed(why="no such lines, and the edit is too long to look for what you meant; change less at once")
        found = _places(lines, search, normal)
        if len(found) > 1:
            return _several(lines, found)
        if found:
            return _equal_place(lines, found[0], search, replace, how)
    for rung in (_by_indentation, _by_spacing, _by_elision, _by_likeness):
        outcome = rung(lines, search, replace)
        if outcome is not None:
            return outcome
    return Missed(why="no such lines", nearest=nearest_lines(lines, search))


def nearest_lines(lines: Sequence[str], search: Sequence[str], *, context: int = 2) -> str:
    """The part of the file that resembles ``search`` most, with line numbers."""
    if not lines:
        return "(the file is empty)"
    width = min(max(len(search), 1), len(lines), 40)
    words = set(" ".join(_plain(line) for line in search).split())
    shared = [words.intersection(_plain(line).split()) for line in lines]
    inside = Counter(word for one in shared[:width] for word in one)
    best, start = len(inside), 0
    for at in range(1, len(lines) - width + 1):  # a sliding window, as files may have a hundred thousand lines
        for word in shared[at - 1]:
            inside[word] -= 1
            if not inside[word]:
                del inside[word]
        inside.update(shared[at + width - 1])
        if len(inside) > best:
            best, start = len(inside), at
    first, last = max(0, start - context), min(len(lines), start + width + context)
    return "\n".join(f"{number}: {lines[number - 1]}" for number in range(first + 1, last + 1))


# --- rungs of equal lines


def _trailing(line: str) -> str:
    return line.rstrip()


def plain_characters(line: str) -> str:
    """The line with typographic characters replaced by what a keyboard has."""
    return unicodedata.normalize("NFC", line.translate(_LOOK_ALIKES)).rstrip()


def _plain(line: str) -> str:
    return " ".join(plain_characters(line).split())


_EQUALITIES: tuple[tuple[How, Callable[[str], str]], ...] = (
    (How.EXACT, lambda line: line),
    (How.TRAILING_SPACE, _trailing),
    (How.LOOK_ALIKES, plain_characters),
)


def _places(lines: Sequence[str], search: Sequence[str], normal: Callable[[str], str]) -> list[int]:
    wanted = [normal(line) for line in search]
    have = [normal(line) for line in lines]
    width = len(wanted)
    first = wanted[0]
    return [at for at in range(len(have) - width + 1) if have[at] == first and have[at : at + width] == wanted]


def _several(lines: Sequence[str], found: Sequence[int]) -> Missed:
    numbers = ", ".join(str(at + 1) for at in found[:5])
    return Missed(
        why=f"these lines occur {len(found)} times (at lines {numbers}); quote more lines around the one you mean",
        nearest="\n".join(f"{at + 1}: {lines[at]}" for at in found[:5]),
    )


def _equal_place(
    lines: Sequence[str], start: int, search: Sequence[str], replace: Sequence[str], how: How
) -> Placed | Missed:
    end = start + len(search)
    new = tuple(replace) if how is How.EXACT else _carried(lines[start:end], search, replace)
    return Placed(start=start, end=end, lines=new, how=how)


def _carried(
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


def _without_blank_edges(search: Sequence[str], replace: Sequence[str]) -> tuple[list[str], list[str]]:
    """Blank lines around both texts belong to how it was written down, not to the change."""
    search, replace = list(search), list(replace)
    while search and replace and not search[0].strip() and not replace[0].strip():
        del search[0], replace[0]
    while search and replace and not search[-1].strip() and not replace[-1].strip():
        del search[-1], replace[-1]
    return search, replace


# --- indentation


def _by_indentation(lines: Sequence[str], search: Sequence[str], replace: Sequence[str]) -> Placed | Missed | None:
    """The same lines, all indented otherwise: lost, shifted, or tabs for spaces."""
    found = _places(lines, search, lambda line: plain_characters(line).strip())
    if not found:
        return None
    if len(found) > 1:
        return _several(lines, found)
    start, end = found[0], found[0] + len(search)
    if _has_rival(lines, search, start, end):
        return Missed(
            why="these lines are there with another indentation, and nearly the same lines are elsewhere with the one "
            "that you quoted; quote the place exactly",
            nearest=nearest_lines(lines, search),
        )
    real = lines[start:end]
    mapping = _indentation_map(search, real)
    new: tuple[str, ...] | None = None
    if mapping is not None:
        with contextlib.suppress(_UnknownIndentationError):
            new = _carried(real, search, replace, _indenter(mapping))
    elif _only_first_is_shifted(search, replace, real):
        new = _carried(real, search, replace)
    if new is None:
        return Missed(
            why="these lines are indented otherwise in the file, so the new lines' indentation can't be told",
            nearest=nearest_lines(lines, search),
        )
    return Placed(start=start, end=end, lines=new, how=How.INDENTATION)


def _only_first_is_shifted(search: Sequence[str], replace: Sequence[str], real: Sequence[str]) -> bool:
    """The first line begins right after a marker and lost its indentation; it is only quoted, and the rest is exact."""
    same = [plain_characters(line) for line in search[1:]] == [plain_characters(line) for line in real[1:]]
    return same and bool(replace) and replace[0] == search[0]


def _has_rival(lines: Sequence[str], search: Sequence[str], start: int, end: int) -> bool:
    """Whether another place has most of the lines just as they were quoted: the meant one, changed since, perhaps."""
    wanted = [plain_characters(line) for line in search]
    known = {line for line in wanted if line}
    sums = _shared_sums([plain_characters(line) for line in lines], known)
    least, width = _RIVAL_SHARE * sum(len(line) for line in wanted), len(wanted)
    return any(
        sums[at + width] - sums[at] >= least for at in range(len(lines) - width + 1) if at >= end or at + width <= start
    )


def _shared_sums(lines: Sequence[str], known: set[str]) -> list[int]:
    """How many characters of known lines there are before each line, so that a window's are one subtraction."""
    return list(accumulate((len(line) if line in known else 0 for line in lines), initial=0))


class _UnknownIndentationError(ValueError):
    pass


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _indentation_map(search: Sequence[str], real: Sequence[str]) -> dict[str, str] | None:
    """What each quoted indentation really is; None when one of them stands for two."""
    mapping: dict[str, str] = {}
    for quoted, actual in zip(search, real, strict=True):
        if not quoted.strip():
            continue
        if mapping.setdefault(_indent(quoted), _indent(actual)) != _indent(actual):
            return None
    return mapping


def _indenter(mapping: dict[str, str]) -> Callable[[str], str]:
    """Give new lines the file's indentation, as learned from the quoted lines by every rule that explains them all."""
    rules = [rule for rule in (_shift(mapping), _scale(mapping)) if rule is not None]

    def adapt(line: str) -> str:
        if not line.strip():
            return ""
        quoted = _indent(line)
        if quoted in mapping:
            return mapping[quoted] + line[len(quoted) :]
        told = {rule(quoted) for rule in rules}
        if len(told) != 1 or None in told:
            raise _UnknownIndentationError
        return f"{told.pop()}{line[len(quoted) :]}"

    return adapt


_Rule = Callable[[str], str | None]


def _shift(mapping: dict[str, str]) -> _Rule | None:
    """The same text put before every line, or cut off its start."""
    added = {actual[: len(actual) - len(quoted)] for quoted, actual in mapping.items() if actual.endswith(quoted)}
    cut = {quoted[: len(quoted) - len(actual)] for quoted, actual in mapping.items() if quoted.endswith(actual)}
    if len(added) == 1 and all(actual.endswith(quoted) for quoted, actual in mapping.items()):
        before = next(iter(added))
        return lambda quoted: before + quoted
    if len(cut) == 1 and all(quoted.endswith(actual) for quoted, actual in mapping.items()):
        off = next(iter(cut))
        return lambda quoted: quoted[len(off) :] if quoted.startswith(off) else None
    return None


def _scale(mapping: dict[str, str]) -> _Rule | None:
    """Levels of another width: tabs for spaces, or two spaces for four."""
    pairs = [(quoted, actual) for quoted, actual in mapping.items() if quoted or actual]
    if not pairs or any(not quoted or not actual for quoted, actual in pairs):
        return None
    kinds_quoted = {character for quoted, _ in pairs for character in quoted}
    kinds_real = {character for _, actual in pairs for character in actual}
    if len(kinds_quoted) != 1 or len(kinds_real) != 1:
        return None
    numerator, denominator = len(pairs[0][1]), len(pairs[0][0])
    if any(len(actual) * denominator != len(quoted) * numerator for quoted, actual in pairs):
        return None
    kind_quoted, kind_real = kinds_quoted.pop(), kinds_real.pop()

    def scale(quoted: str) -> str | None:
        length, odd = divmod(len(quoted) * numerator, denominator)
        return None if odd or set(quoted) - {kind_quoted} else kind_real * length

    return scale


# --- white space inside lines, and blank lines


def _dense(line: str) -> str:
    """The line without any white space: what is left when only spacing differs."""
    return "".join(plain_characters(line).split())


def _by_spacing(lines: Sequence[str], search: Sequence[str], replace: Sequence[str]) -> Placed | Missed | None:
    """The same lines but for white space inside them and for blank lines."""
    wanted = [_dense(line) for line in search if line.strip()]
    solid = [at for at, line in enumerate(lines) if line.strip()]
    have = [_dense(lines[at]) for at in solid]
    width = len(wanted)
    found = [at for at in range(len(have) - width + 1) if have[at] == wanted[0] and have[at : at + width] == wanted]
    if not found:
        return None
    if len(found) > 1:
        return _several(lines, [solid[at] for at in found])
    start, end = solid[found[0]], solid[found[0] + width - 1] + 1
    if _has_rival(lines, search, start, end):
        return Missed(
            why="these lines are there with other spacing, and nearly the same lines are elsewhere; quote them exactly",
            nearest=nearest_lines(lines, search),
        )
    return _merged(lines, start, end, search, replace, how=How.SPACING, similarity=1.0)


# --- elided lines


def _is_elision(line: str) -> bool:
    return bool(_ELIDED.match(line) or _MARKED_ELISION.match(line))


def _by_elision(lines: Sequence[str], search: Sequence[str], replace: Sequence[str]) -> Placed | Missed | None:
    """Lines left out by a remark such as ``# ...`` are filled in from the file, on both sides."""
    quoted, wanted = _segments(search), _segments(replace)
    if len(quoted) == 1:
        return None
    if len(wanted) != len(quoted):
        return Missed(
            why="you left lines out of the search text but not as many times out of the replacement, so what stays "
            "can't be told; quote all lines",
            nearest=nearest_lines(lines, search),
        )
    if any(not any(line.strip() for line in segment) for segment in quoted):
        return Missed(why="quote at least one line before and after what you leave out")
    at = 0
    full_search: list[str] = []
    full_replace: list[str] = []
    start = 0
    for index, segment in enumerate(quoted):
        found = _places(lines[at:], segment, plain_characters)
        if len(found) != 1:
            return Missed(
                why="you left lines out, and the lines around them are not found exactly once; quote all lines",
                nearest=nearest_lines(lines, segment),
            )
        here = at + found[0]
        if index == 0:
            start = here
        else:
            elided = list(lines[at:here])
            full_search += elided
            full_replace += elided
        full_search += segment
        full_replace += wanted[index]
        at = here + len(segment)
    new = _carried(lines[start:at], full_search, full_replace)
    return Placed(start=start, end=at, lines=new, how=How.ELIDED)


def _segments(lines: Sequence[str]) -> list[list[str]]:
    segments: list[list[str]] = [[]]
    for line in lines:
        if _is_elision(line):
            segments.append([])
        else:
            segments[-1].append(line)
    # A remark at the very start or end leaves out what isn't quoted anyway.
    while len(segments) > 1 and not any(line.strip() for line in segments[0]):
        del segments[0]
    while len(segments) > 1 and not any(line.strip() for line in segments[-1]):
        del segments[-1]
    return segments


# --- resemblance


def _by_likeness(lines: Sequence[str], search: Sequence[str], replace: Sequence[str]) -> Placed | Missed | None:
    wanted = [_plain(line) for line in search]
    if len([line for line in wanted if line]) < _FUZZY_LEAST_LINES or len(wanted) > _FUZZY_MOST_LINES:
        return None
    if sum(count * count for count in Counter(wanted).values()) > _MOST_ALIKE:
        return None
    have = [_plain(line) for line in lines]
    scored = _windows(have, wanted)
    if not scored:
        return None
    score, start, end = scored[0]
    if score < FUZZY_THRESHOLD:
        return None
    rival = next((other for other, a, b in scored[1:] if b <= start or a >= end), 0.0)
    if score - rival < _FUZZY_MARGIN or _has_rival(lines, search, start, end):
        return Missed(
            why="two places resemble these lines about equally; quote them exactly",
            nearest=nearest_lines(lines, search),
        )
    return _merged(lines, start, end, search, replace, how=How.FUZZY, similarity=round(score, 3))


def _windows(have: Sequence[str], wanted: Sequence[str]) -> list[tuple[float, int, int]]:
    """The stretches of the file that resemble the block, best first: score, start, end."""
    width = len(wanted)
    known = {line for line in wanted if line}
    weight = sum(len(line) for line in wanted) or 1
    sums = _shared_sums(have, known)
    likely: list[tuple[float, int]] = []
    for start in range(max(1, len(have) - width + 1)):
        shared = sums[min(start + width, len(have))] - sums[start]
        if shared >= 0.4 * weight:  # below, no alignment can reach the threshold with whole lines missing
            likely.append((shared, start))
    likely.sort(reverse=True)
    scored: list[tuple[float, int, int]] = []
    for _, start in likely[:40]:
        best = (0.0, 0)
        for size in range(max(1, width - 3), width + 4):
            window = have[start : start + size]
            score = _likeness(window, wanted)
            if score > best[0]:
                best = (score, start + len(window))
        scored.append((best[0], start, best[1]))
    scored.sort(key=lambda item: (-item[0], item[1]))
    return scored


def _likeness(window: Sequence[str], wanted: Sequence[str]) -> float:
    total = sum(max(len(line), 1) for line in window) + sum(max(len(line), 1) for line in wanted)
    shared = 0.0
    for a, b, ratio in _aligned(window, wanted):
        shared += ratio * (max(len(window[a]), 1) + max(len(wanted[b]), 1))
    return shared / total


def _aligned(have: Sequence[str], wanted: Sequence[str]) -> list[tuple[int, int, float]]:
    """Which line is which, in order: index in ``have``, index in ``wanted``, similarity."""
    pairs: list[tuple[int, int, float]] = []
    matcher = difflib.SequenceMatcher(None, list(have), list(wanted), autojunk=False)
    for tag, a1, a2, b1, b2 in matcher.get_opcodes():
        if tag == "equal":
            pairs.extend((a, b, 1.0) for a, b in zip(range(a1, a2), range(b1, b2), strict=True))
        elif tag == "replace" and a2 - a1 == b2 - b1:
            for a, b in zip(range(a1, a2), range(b1, b2), strict=True):
                if max(len(have[a]), len(wanted[b])) > _LONGEST_COMPARED:
                    continue
                ratio = difflib.SequenceMatcher(None, have[a], wanted[b], autojunk=False).ratio()
                if ratio >= _PAIRED_LINES:
                    pairs.append((a, b, ratio))
    return pairs


_PAIRED_LINES = 0.6
"""Least similarity of two lines that are taken for versions of one."""


# --- carrying a change over to lines that differ from the quoted ones


def _merged(
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
    mapping = _indentation_map(*known.equal_lines())
    if mapping is None:
        return _conflict(lines, search, "the indentation differs from line to line")
    adapt = _indenter(mapping)
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
        except _UnknownIndentationError:
            return _conflict(lines, search, "the new lines' indentation can't be told")
        copied = span[1]
    new.extend(real[copied:])
    return Placed(start=start, end=end, lines=tuple(new), how=how, similarity=similarity)


class _Known:
    """Which real line each quoted line is, as far as that is certain."""

    def __init__(self, real: Sequence[str], search: Sequence[str]) -> None:
        self._real = real
        self._search = search
        pairs = _aligned([_dense(line) for line in real], [_dense(line) for line in search])
        #: The real line of a quoted one, or of an earlier version of it.
        self._version = {quoted: actual for actual, quoted, _ in pairs}
        #: Likewise, for those that are equal but for white space.
        self._where = {quoted: actual for actual, quoted, _ in pairs if _dense(real[actual]) == _dense(search[quoted])}

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
