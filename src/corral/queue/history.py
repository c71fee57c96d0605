"""A queue's last hour or day, read from the jobs that are kept: no sampler has to run, and no process counts twice.

BullMQ's sorted sets of ended jobs are ordered by the time of their end, so that a count per minute is one command that
reads no job. Times are read from a few jobs of each stretch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from corral.wire.keys import QueueKeys

if TYPE_CHECKING:
    from corral.wire.connection import RedisClient

#: Jobs whose times are read for one stretch. A median of 7 is near enough for a chart.
_SAMPLE = 7


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """What ended in one stretch of time."""

    start: datetime
    completed: int
    failed: int
    #: From being added (or due) to being started, of a sample of the completed jobs; seconds.
    wait_s: tuple[float, ...]
    #: From start to end.
    run_s: tuple[float, ...]


async def read_history(
    redis: RedisClient, keys: QueueKeys, *, span: timedelta, stretches: int, now: datetime | None = None
) -> list[Stretch]:
    """Read what ended lately, oldest stretch first.

    Args:
        redis: A ready client.
        keys: Of the queue.
        span: How far back.
        stretches: Into how many equal parts it is cut; the last one is not over yet.
        now: The end of the span.
    """
    width_ms = max(1, round(span.total_seconds() * 1000) // stretches)
    # Whole stretches, so that a bar doesn't change its height with every look.
    end_ms = (round((now or datetime.now(UTC)).timestamp() * 1000) // width_ms + 1) * width_ms
    starts = [end_ms - width_ms * number for number in range(stretches, 0, -1)]
    async with redis.pipeline(transaction=False) as pipe:
        for start in starts:
            last = f"({start + width_ms}"
            pipe.zcount(keys.completed, start, last)
            pipe.zcount(keys.failed, start, last)
            pipe.zrange(keys.completed, start, last, byscore=True, offset=0, num=_SAMPLE)
        replies = await pipe.execute()
    rows = [replies[place : place + 3] for place in range(0, len(replies), 3)]
    times = await _times(redis, keys, [str(job_id) for row in rows for job_id in row[2]])
    return [
        Stretch(
            start=datetime.fromtimestamp(start / 1000, UTC),
            completed=int(completed),
            failed=int(failed),
            wait_s=tuple(times[str(job_id)][0] for job_id in ids if str(job_id) in times),
            run_s=tuple(times[str(job_id)][1] for job_id in ids if str(job_id) in times),
        )
        for start, (completed, failed, ids) in zip(starts, rows, strict=True)
    ]


async def _times(redis: RedisClient, keys: QueueKeys, ids: Sequence[str]) -> dict[str, tuple[float, float]]:
    if not ids:
        return {}
    async with redis.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hmget(keys.job(job_id), ["timestamp", "delay", "processedOn", "finishedOn"])
        replies = await pipe.execute()
    found = {}
    for job_id, (added, delay, started, ended) in zip(ids, replies, strict=True):
        try:
            due = float(added) + float(delay or 0)
            found[job_id] = (max(0.0, float(started) - due) / 1000, max(0.0, float(ended) - float(started)) / 1000)
        except (TypeError, ValueError):
            continue  # removed meanwhile, or never started
    return found


async def oldest_waiting(redis: RedisClient, keys: QueueKeys) -> datetime | None:
    """When the job was added that is next in turn among the ready ones; None: none waits."""
    async with redis.pipeline(transaction=False) as pipe:
        pipe.lindex(keys.wait, -1)
        pipe.zrange(keys.prioritized, 0, 0)
        first, prioritized = await pipe.execute()
    ids = [job_id for job_id in (first, *prioritized) if job_id is not None]
    stamps = [await _added(redis, keys, str(job_id)) for job_id in ids]
    return min((stamp for stamp in stamps if stamp is not None), default=None)


async def _added(redis: RedisClient, keys: QueueKeys, job_id: str) -> datetime | None:
    value: Any = await redis.hget(keys.job(job_id), "timestamp")
    try:
        return datetime.fromtimestamp(float(value) / 1000, UTC)
    except (TypeError, ValueError):
        return None
