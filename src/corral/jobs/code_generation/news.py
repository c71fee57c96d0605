"""What a running job tells of itself: its log and its progress."""

from __future__ import annotations

from typing import Any

from corral.errors import StoreUnavailable
from corral.queue.job import Job
from corral.queue.status import percent as percent_of

_MOST_WAITING = 2000
"""Lines."""


class News:
    """A job's news; a Redis that is away ends no work that is paid for.

    Lines that can't be written wait for the next ones; of the progress only the newest counts. What says that the job
    is no longer ours is raised.
    """

    def __init__(self, job: Job[Any]) -> None:
        self._job = job
        # An earlier start of the job has told its owner so much already. One that ended and is run again by somebody's
        # wish begins anew.
        self._percent = percent_of(job.reported) if job.starts > 1 else 0.0
        self._waiting: list[str] = []

    async def progress(self, percent: float, stage: str) -> None:
        """Say how far the job is; never goes back, not from one attempt to the next either."""
        self._percent = max(self._percent, min(percent, 100.0))
        try:
            await self._job.progress({"percent": round(self._percent, 1), "stage": stage})
        except StoreUnavailable:
            return  # the next one says it too

    async def log(self, *lines: str) -> None:
        """Append lines to the job's log."""
        self._waiting = [*self._waiting, *lines][-_MOST_WAITING:]
        sent = self._waiting
        try:
            await self._job.log(*sent)
        except StoreUnavailable:
            return  # with the next ones
        self._waiting = self._waiting[len(sent) :]
