"""Merging segments, so that an index that grows by single files never has many of them.

Segments are of levels by their live chunks, each eight times the one below. Eight of one level become one, with all
below, so a chunk is rewritten once for each level (six for a million) and there are at most seven segments a level. A
segment of which more than half is dead is rewritten alone. Readers have their own generation and never notice.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from pathlib import Path

from corral.adapters.index.local_reader import Part
from corral.adapters.index.local_segment import open_segment
from corral.adapters.index.local_segment_writer import SegmentWriter
from corral.adapters.index.local_text import TextCodec

_FACTOR = 8
_WASTE_LIMIT = 0.5


def too_many(parts: Sequence[Part]) -> list[Part]:
    """Those that should become one; none, most of the time."""
    levels = [_level(part) for part in parts]
    for level in sorted(set(levels), reverse=True):
        if levels.count(level) >= _FACTOR:
            return [part for part, own in zip(parts, levels, strict=True) if own <= level]
    return [part for part in parts if part.entry.dead_chunks > _WASTE_LIMIT * part.entry.chunks][:1]


def _level(part: Part) -> int:
    size, level = part.entry.live_chunks, 0
    while size >= _FACTOR:
        size //= _FACTOR
        level += 1
    return level


def merged(folder: Path, parts: Sequence[Part], dimension: int, codec: TextCodec) -> list[Part]:
    """One segment with what lives in some, under the numbers that it had."""
    writer = SegmentWriter(folder, uuid.uuid4().hex, dimension, codec)
    live = sorted(
        (int(part.segment.files["id"][row]), at, row)
        for at, part in enumerate(parts)
        for row in part.all_live().tolist()
    )
    for _, at, row in live:
        writer.copy(parts[at].segment, row)
    entry, _ = writer.finish()
    return [Part(open_segment(folder, entry), entry)]
