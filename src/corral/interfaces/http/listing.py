"""Finding jobs in a long queue without reading all of it: filters, a time budget, and a cursor to go on from."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from corral.interfaces.http.views import project_of

if TYPE_CHECKING:
    from corral.client import Corral
    from corral.queue.job import JobState
    from corral.queue.status import JobStatus

_BATCH: Final = 200
_BUDGET_SECONDS: Final = 0.1
"""How long one request looks for matches before it gives what it has and a cursor."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFilter:
    """Which jobs are wanted; None matches any."""

    user_id: str | None = None
    project_id: str | None = None
    #: Anywhere in the id, payload or error; any case.
    text: str | None = None

    def matches(self, status: JobStatus) -> bool:
        """Whether the job is wanted."""
        if self.user_id is not None and status.user_id != self.user_id:
            return False
        if self.project_id is not None and project_of(status.data) != self.project_id:
            return False
        if self.text is None:
            return True
        wanted = self.text.casefold()
        if wanted in status.id.casefold() or wanted in (status.error or "").casefold():
            return True
        # The stored form, unescaped: people search for what they see.
        return wanted in json.dumps(status.data, ensure_ascii=False, default=str).casefold()


async def find_jobs(
    corral: Corral,
    job_type: str,
    states: Sequence[JobState] | None,
    *,
    wanted: JobFilter,
    may_see: Callable[[JobStatus], Awaitable[bool]],
    offset: int,
    limit: int,
    newest_first: bool,
    sees_everyone: bool,
) -> tuple[list[JobStatus], int | None]:
    """Find up to ``limit`` jobs from ``offset`` on.

    Args:
        corral: The queues.
        job_type: Which queue.
        states: None: all.
        wanted: The filter.
        may_see: Whether the caller may see a job.
        offset: Jobs of these states to pass over, matching or not.
        limit: At most so many.
        newest_first: Else the oldest come first.
        sees_everyone: Whether ``may_see`` is true of every job, so that nothing has to be searched.

    Returns:
        The jobs, and the offset to go on from; None at the end. Fewer than ``limit`` with an offset: time was up.
    """
    found: list[JobStatus] = []
    deadline = time.monotonic() + _BUDGET_SECONDS
    plain = sees_everyone and wanted == JobFilter()
    while True:
        batch_size = limit + 1 - len(found) if plain else _BATCH
        batch = await corral.list_jobs(job_type, states, offset=offset, limit=batch_size, newest_first=newest_first)
        for number, status in enumerate(batch):
            if not plain and time.monotonic() > deadline:
                return found, offset + number
            if not wanted.matches(status) or not await may_see(status):
                continue
            if len(found) == limit:
                return found, offset + number
            found.append(status)
        offset += len(batch)
        if len(batch) < batch_size:
            return found, None
