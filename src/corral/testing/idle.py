"""Work off what waits, and stop: for tests of producers and handlers together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from corral.errors import JobStateConflict
from corral.queue.job import JobState

if TYPE_CHECKING:
    from corral.client import Corral
    from corral.queue.status import QueueStats

_PAUSE_S = 0.01


async def run_until_idle(
    corral: Corral,
    job_types: Iterable[str] | None = None,
    *,
    promote_delayed: bool = False,
    timeout: timedelta = timedelta(seconds=30),
) -> None:
    """Run workers until no job waits or runs, then stop them.

    Jobs that handlers add meanwhile are worked off too. Paused queues are left alone.

    Args:
        corral: Connected or not, as it is; its own handlers run, in this event loop.
        job_types: Default: all that have a handler here.
        promote_delayed: Run delayed jobs too, at once: a retry's back-off takes no time then. Jobs of schedules are
            left alone, as each makes the next.
        timeout: For all of it.

    Raises:
        TimeoutError: Jobs are still there; says how many, and where.
        ConfigurationError: No job type has a handler here.
    """
    workers = await corral.start_workers(job_types)
    names = list(workers.active)
    try:
        async with asyncio.timeout(timeout.total_seconds()):
            # Asked again and again: workers in other processes may be at it too, and nobody tells of their idleness.
            while True:
                if all([await _is_idle(corral, name, promote_delayed=promote_delayed) for name in names]):
                    break
                await asyncio.sleep(_PAUSE_S)
    except TimeoutError:
        found = [_describe(await corral.get_queue_stats(name)) for name in names]
        raise TimeoutError(f"not idle after {timeout.total_seconds():g} s: {'; '.join(found)}") from None
    finally:
        await workers.stop()


async def _is_idle(corral: Corral, name: str, *, promote_delayed: bool) -> bool:
    stats = await corral.get_queue_stats(name)
    if promote_delayed and stats.delayed and not stats.paused:
        promoted = False
        for job in await corral.list_jobs(name, [JobState.DELAYED], limit=1_000):
            if job.schedule_id is None:
                with contextlib.suppress(JobStateConflict):  # its time has come meanwhile
                    await corral.promote_job(name, job.id)
                promoted = True
        if promoted:
            return False
    return not stats.active and (stats.paused or not stats.waiting)


def _describe(stats: QueueStats) -> str:
    return f"{stats.job_type}: {stats.waiting} waiting, {stats.active} active, {stats.delayed} delayed"
