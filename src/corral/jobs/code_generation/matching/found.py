"""What looking for a block comes to, and what a miss tells the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate

from corral.jobs.code_generation.matching.lines import plain, plain_characters

_RIVAL_SHARE = 0.5
"""Of a block's characters: as much, found as quoted in another place, makes a forgiving match doubtful."""


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


def places_of(lines: Sequence[str], search: Sequence[str], normal: Callable[[str], str]) -> list[int]:
    """Where a block of lines stands, in the form that is compared."""
    wanted = [normal(line) for line in search]
    have = [normal(line) for line in lines]
    width = len(wanted)
    first = wanted[0]
    return [at for at in range(len(have) - width + 1) if have[at] == first and have[at : at + width] == wanted]


def several(lines: Sequence[str], found: Sequence[int]) -> Missed:
    """Tell the model which places its lines fit."""
    numbers = ", ".join(str(at + 1) for at in found[:5])
    return Missed(
        why=f"these lines occur {len(found)} times (at lines {numbers}); quote more lines around the one you mean",
        nearest="\n".join(f"{at + 1}: {lines[at]}" for at in found[:5]),
    )


def has_rival(lines: Sequence[str], search: Sequence[str], start: int, end: int) -> bool:
    """Whether another place has most of the lines just as they were quoted: the meant one, changed since, perhaps."""
    wanted = [plain_characters(line) for line in search]
    known = {line for line in wanted if line}
    sums = shared_sums([plain_characters(line) for line in lines], known)
    least, width = _RIVAL_SHARE * sum(len(line) for line in wanted), len(wanted)
    return any(
        sums[at + width] - sums[at] >= least for at in range(len(lines) - width + 1) if at >= end or at + width <= start
    )


def shared_sums(lines: Sequence[str], known: set[str]) -> list[int]:
    """How many characters of known lines there are before each line, so that a window's are one subtraction."""
    return list(accumulate((len(line) if line in known else 0 for line in lines), initial=0))


def nearest_lines(lines: Sequence[str], search: Sequence[str], *, context: int = 2) -> str:
    """The part of the file that resembles ``search`` most, with line numbers."""
    if not lines:
        return "(the file is empty)"
    width = min(max(len(search), 1), len(lines), 40)
    words = set(" ".join(plain(line) for line in search).split())
    shared = [words.intersection(plain(line).split()) for line in lines]
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
