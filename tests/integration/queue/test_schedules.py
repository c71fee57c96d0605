"""Schedules: each due job makes its successor, once, whatever happens in between."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from tests.integration.queue.conftest import SOON, settings

from corral import Corral, Job, JobState
from corral.queue.queue import Queue
from corral.queue.scheduler import schedule_next
from corral.testing import EmbeddedServer, TcpProxy
from corral.wire.codec import JobRecord, fields
from corral.wire.scripts import now_ms

HOUR = timedelta(hours=1)


async def first_job(corral: Corral, job_id: str) -> tuple[Queue, JobRecord]:
    """The schedule's job as the worker that claims it has it."""
    queue = await corral._queue("tick")
    return queue, JobRecord(job_id, fields(await queue.scripts.pipe.execute("HGETALL", queue.keys.job(job_id))))


@pytest.fixture(autouse=True)
def declared(corral: Corral) -> None:
    corral.declare("tick")


async def test_the_successor_is_made_after_an_outage(corral: Corral, corral_server: EmbeddedServer) -> None:
    job_id = await corral.add_schedule("tick", "hourly", data={"n": 1}, every=HOUR)
    async with (
        TcpProxy(corral_server.port) as proxy,
        Corral(proxy.url_for(corral_server.url), prefix=corral.prefix, settings=settings(), job_types=()) as cut_off,
    ):
        cut_off.declare("tick")
        queue, record = await first_job(cut_off, job_id)
        await proxy.cut()
        making = asyncio.create_task(schedule_next(queue, record))
        await asyncio.wait({making}, timeout=0.3)  # it has had time to give up
        assert not making.done()
        proxy.mend()
        await making
    (successor,) = await corral.list_jobs("tick", [JobState.DELAYED])
    assert successor.data == {"n": 1}
    assert HOUR - timedelta(minutes=1) < timedelta(milliseconds=successor.delay_ms) <= HOUR


async def test_a_job_that_is_claimed_twice_has_one_successor(corral: Corral) -> None:
    """As when a worker dies between claiming it and making the successor, or right after."""
    queue, record = await first_job(corral, await corral.add_schedule("tick", "hourly", data=None, every=HOUR))
    for _ in range(3):
        await schedule_next(queue, record)
    assert (await corral.get_queue_stats("tick")).delayed == 1


async def test_what_was_missed_is_made_up_for_by_one_run(corral: Corral) -> None:
    due_ms: list[int] = []
    enough = asyncio.Event()

    @corral.handler("clock")
    async def clock(job: Job[Any]) -> None:
        due_ms.append(int(job.id.rpartition(":")[2]))
        if len(due_ms) == 4:
            enough.set()

    period_ms = 100
    job_id = await corral.add_schedule("clock", "often", data=None, every=timedelta(milliseconds=period_ms))
    first_ms = int(job_id.rpartition(":")[2])
    while (begun_ms := now_ms()) < first_ms + 10 * period_ms:
        await asyncio.sleep(0.01)  # nobody works meanwhile
    async with await corral.start_workers(["clock"]):
        async with asyncio.timeout(SOON.total_seconds()):
            await enough.wait()
        await corral.remove_schedule("clock", "often")
    assert due_ms[0] == first_ms
    assert due_ms[1] > begun_ms
    gaps = [later - earlier for earlier, later in pairwise(due_ms[1:])]
    assert all(gap >= period_ms and gap % period_ms == 0 for gap in gaps), gaps


async def test_it_ends_at_its_end(corral: Corral) -> None:
    soon = datetime.now(UTC) - timedelta(seconds=1)
    queue, record = await first_job(
        corral, await corral.add_schedule("tick", "ended", data=None, every=HOUR, end_at=soon)
    )
    await schedule_next(queue, record)
    assert (await corral.get_queue_stats("tick")).delayed == 0


async def test_a_removed_schedule_has_no_successor(corral: Corral) -> None:
    queue, record = await first_job(corral, await corral.add_schedule("tick", "gone", data=None, every=HOUR))
    await corral.redis.delete(f"{corral.prefix}:tick:repeat", f"{corral.prefix}:tick:repeat:gone")
    await schedule_next(queue, record)
    assert (await corral.get_queue_stats("tick")).delayed == 0


async def test_what_can_not_be_mended_is_logged_and_the_job_runs(
    corral: Corral, caplog: pytest.LogCaptureFixture
) -> None:
    @corral.handler("broken")
    async def broken(_: Job[Any]) -> str:
        return "ran"

    job_id = await corral.add_schedule("broken", "odd", data=None, every=HOUR)
    await corral.redis.hset(f"{corral.prefix}:broken:repeat:odd", "pattern", "not a cron line")
    async with await corral.start_workers(["broken"]):
        assert await corral.wait_for_result(("broken", job_id), timeout=SOON) == "ran"
    assert "schedule odd made no next job" in caplog.text
