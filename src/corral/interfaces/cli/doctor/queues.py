"""Queues: why jobs wait that should run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from corral.interfaces.cli.doctor.finding import Finding, Verdict
from corral.queue.status import QueueStats


@dataclass(frozen=True, slots=True)
class QueueSeen:
    """One queue as the doctor saw it."""

    stats: QueueStats
    #: Workers that serve it now, in whatever language.
    workers: int


def check_queues(queues: Iterable[QueueSeen]) -> list[Finding]:
    """One finding for each queue that has something to say, or one that all is well."""
    findings = [finding for queue in queues for finding in _check(queue)]
    return findings or [Finding("queues", Verdict.OK, "nothing is stuck")]


def _check(queue: QueueSeen) -> Iterable[Finding]:
    stats, name = queue.stats, queue.stats.job_type
    label = f"queue {name}"
    if stats.paused and stats.waiting:
        yield Finding(label, Verdict.FAULT, f"paused, with {stats.waiting} jobs waiting", f"corral resume {name}")
    elif stats.paused:
        yield Finding(label, Verdict.NOTE, "paused", f"corral resume {name}")
    if not queue.workers and stats.active:
        yield Finding(
            label,
            Verdict.FAULT,
            f"{stats.active} jobs are active and no worker is connected: theirs died, or can't reach Redis",
            f"corral worker --queues {name} (it takes them over when their lease has run out)",
        )
    if not queue.workers and stats.waiting:
        yield Finding(
            label,
            Verdict.FAULT,
            f"{stats.waiting} jobs stuck in waiting: no worker serves the queue",
            f"corral worker --queues {name} (or initialize_workers() in your server)",
        )
    if queue.workers and stats.failed > max(10, stats.completed):
        yield Finding(
            label,
            Verdict.WARNING,
            f"more jobs failed ({stats.failed}) than completed ({stats.completed})",
            f"corral list {name} --state failed",
        )
