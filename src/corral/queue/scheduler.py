"""Job schedulers: a record in Redis that makes one job after another, at times given by cron or by an interval.

Each due job makes its successor when it is claimed, by whichever worker claims it, in whatever language: so the next
one is always in Redis, and no process has to stay alive for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from corral.errors import JobNotFound, PayloadInvalid, StoreError, StoreUnavailable
from corral.queue.cron import next_cron_ms
from corral.queue.options import JobOptions
from corral.queue.queue import Queue
from corral.queue.status import Schedule
from corral.wire.codec import JobRecord, decode_json, encode_options, fields, instant, packed
from corral.wire.scripts import check_code, expect_list, now_ms

logger = logging.getLogger("corral.queue")

#: Before the next try, when Redis was away or is not ready yet.
_AGAIN_S = 0.1


async def add_schedule(
    queue: Queue,
    schedule_id: str,
    *,
    data: Any,
    options: JobOptions,
    cron: str | None = None,
    time_zone: str | None = None,
    every: timedelta | None = None,
    limit: int | None = None,
    start_at: datetime | None = None,
    end_at: datetime | None = None,
) -> str:
    """Make or change a schedule; its next job replaces the one that an earlier version had made.

    Returns:
        The id of the next job.

    Raises:
        PayloadInvalid: The payload, the expression or the combination doesn't fit.

    Wire:
        addJobScheduler; KEYS repeat, delayed, wait, paused, meta, prioritized, marker, id, events, pc, active; ARGV
        next ms, msgpack of {name, tz, pattern, every, limit, startDate, endDate}, id, data, the template's options, the
        next job's options, now, prefix, producer's key; replies [job id, delay] or a ``Code``.
    """
    if (cron is None) == (every is None):
        raise PayloadInvalid("A schedule takes either cron or every: give one of them.")
    if every is not None and every < timedelta(milliseconds=1):
        raise PayloadInvalid(f"every: expected at least 1 ms, got {every}.")
    if not schedule_id or ":" in schedule_id or len(schedule_id) > 128:
        raise PayloadInvalid(f"schedule_id: expected 1 to 128 characters without a colon, got {schedule_id!r}.")
    text = queue.spec.encode_payload(data).decode()
    now = now_ms()
    after = max(now, _ms(start_at)) if start_at is not None else now
    due_ms = next_cron_ms(cron, time_zone, after) if cron is not None else after
    every_ms = round(every.total_seconds() * 1000) if every is not None else None
    repeat = _without_none(
        {
            "pattern": cron,
            "tz": time_zone,
            "every": every_ms,
            "limit": limit,
            "startDate": _ms(start_at) if start_at else None,
            "endDate": _ms(end_at) if end_at else None,
        }
    )
    template = options.changed(job_id=None, delay=None, run_at=None).to_wire(0)
    k = queue.keys
    reply = await queue.scripts.run(
        "addJobScheduler",
        (k.repeat, k.delayed, k.wait, k.paused, k.meta, k.prioritized, k.marker, k.id, k.events, k.pc, k.active),
        (
            due_ms,
            packed({"name": queue.spec.name, **repeat}),
            schedule_id,
            text,
            encode_options(template),
            encode_options(_job_options(template, repeat, schedule_id, due_ms, count=1, now=now)),
            now,
            k.base,
            "",
        ),
    )
    check_code(reply, job_id=schedule_id, action="scheduled")
    return str(expect_list(reply)[0])


async def schedule_next(queue: Queue, record: JobRecord) -> None:
    """Have a schedule make the successor of a job that was just claimed.

    While Redis is away it waits, since a successor that is never made would be the schedule's end. What can't be mended
    by waiting is logged, not raised: the claimed job itself can run. The schedule is then resumed by adding it anew.

    Safe to repeat: the script makes a successor of the newest job only.
    """
    while True:
        try:
            return await _make_next(queue, record, record.scheduler_id or "")
        except StoreUnavailable:
            await asyncio.sleep(_AGAIN_S)
            await queue.scripts.pipe.wait_connected()
        except (StoreError, PayloadInvalid, ValueError) as error:
            logger.error("%s: schedule %s made no next job: %s", queue.spec.name, record.scheduler_id, error)
            return None


async def _make_next(queue: Queue, record: JobRecord, schedule_id: str) -> None:
    """Make the successor, unless the schedule is gone or at its end.

    Wire:
        updateJobScheduler; KEYS as addJobScheduler's with the producer's key; ARGV next ms, id, data, options, now,
        prefix, producer's id; replies the next job's id, or nothing.
    """
    k = queue.keys
    schedule = fields(await queue.scripts.pipe.execute("HGETALL", f"{k.repeat}:{schedule_id}"))
    now = now_ms()
    repeat = dict(record.options.get("repeat") or {})
    count = int(repeat.get("count") or 0) + 1
    limit, end_ms = schedule.get("limit"), schedule.get("endDate")
    if not schedule or (limit and count > int(limit)) or (end_ms and now > int(float(end_ms))):
        return
    pattern = schedule.get("pattern")
    previous = record.options.get("prevMillis")
    after = max(now, int(previous)) if isinstance(previous, int | float) else now
    due_ms = next_cron_ms(pattern, schedule.get("tz"), after) if pattern else now
    template = {
        name: value
        for name, value in record.options.items()
        if name not in {"repeat", "jobId", "delay", "timestamp", "prevMillis", "repeatJobKey"}
    }
    await queue.scripts.run(
        "updateJobScheduler",
        (
            k.repeat, k.delayed, k.wait, k.paused, k.meta, k.prioritized, k.marker, k.id, k.events, k.pc,
            k.job(record.id), k.active,
        ),
        (
            due_ms,
            schedule_id,
            schedule.get("data") or record.data,
            encode_options(_job_options(template, repeat, schedule_id, due_ms, count=count, now=now)),
            now,
            k.base,
            record.id,
        ),
    )  # fmt: skip


async def list_schedules(queue: Queue, *, limit: int = 1_000) -> list[Schedule]:
    """The queue's schedules, next due first."""
    pipe = queue.scripts.pipe
    found = expect_list(await pipe.execute("ZRANGE", queue.keys.repeat, 0, limit - 1, "WITHSCORES"))
    ids, scores = found[::2], found[1::2]
    schedules = []
    for schedule_id, score in zip(ids, scores, strict=True):
        stored = fields(await pipe.execute("HGETALL", f"{queue.keys.repeat}:{schedule_id}"))
        schedules.append(
            Schedule(
                id=str(schedule_id),
                job_type=queue.spec.name,
                cron=stored.get("pattern"),
                time_zone=stored.get("tz"),
                every_ms=int(stored["every"]) if "every" in stored else None,
                next_run_at=instant(score),
                count=int(stored.get("ic") or 0),
                limit=int(stored["limit"]) if "limit" in stored else None,
                data=decode_json(stored.get("data")),
            )
        )
    return schedules


async def remove_schedule(queue: Queue, schedule_id: str) -> None:
    """Remove a schedule and its next job.

    Raises:
        JobNotFound: There is no such schedule.

    Wire:
        removeJobScheduler; KEYS repeat, delayed, events; ARGV id, prefix; replies 0, or 1 when there is none.
    """
    k = queue.keys
    reply = await queue.scripts.run("removeJobScheduler", (k.repeat, k.delayed, k.events), (schedule_id, k.base))
    if reply == 1:
        raise JobNotFound(f"Queue {queue.spec.name!r} has no schedule {schedule_id!r}.")


def _job_options(
    template: Mapping[str, Any], repeat: Mapping[str, Any], schedule_id: str, due_ms: int, *, count: int, now: int
) -> dict[str, Any]:
    """Options of a schedule's next job (source: ``getNextJobOpts`` of BullMQ's JobScheduler)."""
    return {
        **template,
        "jobId": f"repeat:{schedule_id}:{due_ms}",
        "delay": max(0, due_ms - now),
        "timestamp": now,
        "prevMillis": due_ms,
        "repeatJobKey": schedule_id,
        "repeat": _without_none({**repeat, "count": count}),
    }


def _ms(value: datetime) -> int:
    if value.tzinfo is None:
        raise PayloadInvalid("start_at and end_at: expected aware datetimes, got one without a time zone.")
    return round(value.timestamp() * 1000)


def _without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
