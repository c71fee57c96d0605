"""The ladder of ever more forgiving comparisons.

Each rung is only tried when the one above found nothing, and a rung counts only when it finds exactly one place.
Nothing ever lands at the better of two places: a tie is a miss.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Sequence

from corral.jobs.code_generation.matching.carrying import carried, merged
from corral.jobs.code_generation.matching.found import How, Missed, Placed, has_rival, nearest_lines, places_of, several
from corral.jobs.code_generation.matching.indentation import UnknownIndentationError, indentation_map, indenter
from corral.jobs.code_generation.matching.lines import dense, plain, plain_characters
from corral.jobs.code_generation.matching.resemblance import windows

FUZZY_THRESHOLD = 0.85
"""Least similarity of a whole block."""
_FUZZY_MARGIN = 0.1
"""How much better the best place must be than the second best."""
_FUZZY_LEAST_LINES = 3
"""Shorter blocks say too little to be found by resemblance."""
_FUZZY_MOST_LINES = 400
_MOST_ALIKE = 20_000
"""Pairs of equal lines in a block: one that repeats itself so much is like any place, and takes minutes to compare."""
_MOST_COMPARED = 4_000_000
"""Pairs of a quoted and a new line; likewise."""
_ELIDED = re.compile(r"^\s*(?:#|//|/\*|--|<!--|;|%)?\s*(?:\.\.\.|…)\s*(?:\*/|-->)?\s*$")
_MARKED_ELISION = re.compile(
    r"^\s*(?:#|//|/\*|--|<!--|;|%)\s*(?:\.\.\.|…).*(?:code|unchanged|rest|existing|same|omitted).*$", re.IGNORECASE
)


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
        found = places_of(lines, search, normal)
        if len(found) > 1:
            return several(lines, found)
        if found:
            return _equal_place(lines, found[0], search, replace, how)
    for rung in (_by_indentation, _by_spacing, _by_elision, _by_likeness):
        outcome = rung(lines, search, replace)
        if outcome is not None:
            return outcome
    return Missed(why="no such lines", nearest=nearest_lines(lines, search))


# --- equal lines


def _trailing(line: str) -> str:
    return line.rstrip()


_EQUALITIES: tuple[tuple[How, Callable[[str], str]], ...] = (
    (How.EXACT, lambda line: line),
    (How.TRAILING_SPACE, _trailing),
    (How.LOOK_ALIKES, plain_characters),
)


def _equal_place(
    lines: Sequence[str], start: int, search: Sequence[str], replace: Sequence[str], how: How
) -> Placed | Missed:
    end = start + len(search)
    new = tuple(replace) if how is How.EXACT else carried(lines[start:end], search, replace)
    return Placed(start=start, end=end, lines=new, how=how)


def _without_blank_edges(search: Sequence[str], replace: Sequence[str]) -> tuple[list[str], list[str]]:
    """Blank lines around both texts belong to how it was written down, not to the change."""
    search, replace = list(search), list(replace)
    while search and replace and not search[0].strip() and not replace[0].strip():
        del search[0], replace[0]
    while search and replace and not search[-1].strip() and not replace[-1].strip():
        del search[-1], replace[-1]
    return search, replace


# --- another indentation


def _by_indentation(lines: Sequence[str], search: Sequence[str], replace: Sequence[str]) -> Placed | Missed | None:
    """The same lines, all indented otherwise: lost, shifted, or tabs for spaces."""
    found = places_of(lines, search, lambda line: plain_characters(line).strip())
    if not found:
        return None
    if len(found) > 1:
        return several(lines, found)
    start, end = found[0], found[0] + len(search)
    if has_rival(lines, search, start, end):
        return Missed(
            why="these lines are there with another indentation, and nearly the same lines are elsewhere with the one "
            "that you quoted; quote the place exactly",
            nearest=nearest_lines(lines, search),
        )
    real = lines[start:end]
    mapping = indentation_map(search, real)
    new: tuple[str, ...] | None = None
    if mapping is not None:
        with contextlib.suppress(UnknownIndentationError):
            new = carried(real, search, replace, indenter(mapping))
    elif _only_first_is_shifted(search, replace, real):
        new = carried(real, search, replace)
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


# --- white space inside lines, and blank lines


def _by_spacing(lines: Sequence[str], search: Sequence[str], replace: Sequence[str]) -> Placed | Missed | None:
    """The same lines but for white space inside them and for blank lines."""
    wanted = [dense(line) for line in search if line.strip()]
    solid = [at for at, line in enumerate(lines) if line.strip()]
    have = [dense(lines[at]) for at in solid]
    width = len(wanted)
    found = [at for at in range(len(have) - width + 1) if have[at] == wanted[0] and have[at : at + width] == wanted]
    if not found:
        return None
    if len(found) > 1:
        return several(lines, [solid[at] for at in found])
    start, end = solid[found[0]], solid[found[0] + width - 1] + 1
    if has_rival(lines, search, start, end):
        return Missed(
            why="these lines are there with other spacing, and nearly the same lines are elsewhere; quote them exactly",
            nearest=nearest_lines(lines, search),
        )
    return merged(lines, start, end, search, replace, how=How.SPACING, similarity=1.0)


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
        found = places_of(lines[at:], segment, plain_characters)
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
    new = carried(lines[start:at], full_search, full_replace)
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
    wanted = [plain(line) for line in search]
    if len([line for line in wanted if line]) < _FUZZY_LEAST_LINES or len(wanted) > _FUZZY_MOST_LINES:
        return None
    if sum(count * count for count in Counter(wanted).values()) > _MOST_ALIKE:
        return None
    have = [plain(line) for line in lines]
    scored = windows(have, wanted)
    if not scored:
        return None
    score, start, end = scored[0]
    if score < FUZZY_THRESHOLD:
        return None
    rival = next((other for other, a, b in scored[1:] if b <= start or a >= end), 0.0)
    if score - rival < _FUZZY_MARGIN or has_rival(lines, search, start, end):
        return Missed(
            why="two places resemble these lines about equally; quote them exactly",
            nearest=nearest_lines(lines, search),
        )
    return merged(lines, start, end, search, replace, how=How.FUZZY, similarity=round(score, 3))
