"""Which lines are versions of which, and how much two blocks resemble each other."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from corral.jobs.code_generation.matching.found import shared_sums

_LONGEST_COMPARED = 2000
"""Characters of a line; longer ones (data, generated code) are equal or they are not."""
_PAIRED_LINES = 0.6
"""Least similarity of two lines that are taken for versions of one."""


def windows(have: Sequence[str], wanted: Sequence[str]) -> list[tuple[float, int, int]]:
    """The stretches of the file that resemble the block, best first: score, start, end."""
    width = len(wanted)
    known = {line for line in wanted if line}
    weight = sum(len(line) for line in wanted) or 1
    sums = shared_sums(have, known)
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
    for a, b, ratio in aligned(window, wanted):
        shared += ratio * (max(len(window[a]), 1) + max(len(wanted[b]), 1))
    return shared / total


def aligned(have: Sequence[str], wanted: Sequence[str]) -> list[tuple[int, int, float]]:
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
