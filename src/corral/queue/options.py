"""How a job is to be run: priority, delay, attempts, back-off, retention, deduplication, parents."""

from __future__ import annotations

from enum import IntEnum


class JobPriority(IntEnum):
    """The customary priorities; any integer from 0 to 2,097,152 will do. Lower runs first, FIFO within one."""

    CRITICAL = 0
    HIGH = 1
    MEDIUM = 5
    LOW = 10
