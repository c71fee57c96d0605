"""Stopping: nothing is lost, nothing runs twice to its end, and no attempt is used up."""

from __future__ import annotations

import asyncio
import re
import time
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.queue.conftest import SOON, settings, until_state

from corral import Corral, Job, JobState
from corral.testing.server import EmbeddedServer


async def test_active_jobs_may_end(corral: Corral) -> None:
    started = asyncio.Event()

    @corral.handler("short")
    async def short(_: Job[Any]) -> str:
        started.set()
        await asyncio.sleep(0.2)
        return "done"

    workers = await corral.start_workers()
    job = await corral.add_job("short", None)
    waiting = await corral.add_job("short", None, delay=timedelta(milliseconds=50))
    await started.wait()
    await workers.stop()
    assert (await corral.get_job_status("short", job.id)).result == "done"
    assert (await corral.get_job_status("short", waiting.id)).attempts == 0


async def test_a_job_that_takes_too_long_goes_back_to_the_head_without_an_attempt(corral: Corral) -> None:
    started = asyncio.Event()
    ended: list[str] = []

    @corral.handler("long", concurrency=1)
    async def long(job: Job[Any]) -> int:
        started.set()
        try:
            await asyncio.sleep(60 if job.data == "slow" and not ended else 0)
        except asyncio.CancelledError:
            ended.append(job.id)
            raise
        return job.attempt

    workers = await corral.start_workers()
    slow = await corral.add_job("long", "slow", priority=0)
    after = await corral.add_job("long", "after", priority=0)
    await started.wait()
    asked = time.monotonic()
    await workers.stop(timedelta(milliseconds=100))
    assert time.monotonic() - asked < 2
    assert ended == [slow.id]
    status = await corral.get_job_status("long", slow.id)
    assert (status.state, status.attempts, status.crashes) == (JobState.WAITING, 0, 0)
    waiting = await corral.list_jobs("long", [JobState.WAITING], newest_first=False)
    assert [job.id for job in waiting] == [slow.id, after.id]
    async with await corral.start_workers():
        assert await corral.wait_for_result(slow, timeout=SOON) == 1


async def test_a_second_stop_cuts_the_first_short(corral: Corral) -> None:
    started = asyncio.Event()

    @corral.handler("long")
    async def long(_: Job[Any]) -> None:
        started.set()
        await asyncio.sleep(60)

    workers = await corral.start_workers()
    job = await corral.add_job("long", None)
    await started.wait()
    first = asyncio.create_task(workers.stop(timedelta(seconds=30)))
    await asyncio.sleep(0.05)
    asked = time.monotonic()
    await workers.stop(timedelta(0))
    await first
    assert time.monotonic() - asked < 2
    assert (await corral.get_job_status("long", job.id)).state is JobState.PRIORITIZED


async def test_the_jobs_of_a_worker_that_vanished_are_found(corral: Corral, corral_server: EmbeddedServer) -> None:
    taken = asyncio.Event()
    ran: list[int] = []

    async def work(job: Job[Any]) -> int:
        taken.set()
        ran.append(job.crashes)
        if job.crashes == 0:
            await asyncio.sleep(60)
        return job.attempt

    async with Corral(corral_server.url, prefix=corral.prefix, settings=settings(), job_types=()) as doomed:
        doomed.handler("work")(work)
        lost = await doomed.start_workers()
        job = await doomed.add_job("work", None)
        await taken.wait()
        # As a kill would: no more renewals, no word to Redis.
        await lost._leases.stop()
        for worker in lost._workers.values():
            worker._held.clear()
        corral.handler("work")(work)
        async with await corral.start_workers():
            assert await corral.wait_for_result(job, timeout=timedelta(seconds=15)) == 1
        await lost.stop(timedelta(0))
    status = await corral.get_job_status("work", job.id)
    assert (status.attempts, status.crashes, status.state) == (1, 1, JobState.COMPLETED)
    assert ran == [0, 1]


async def test_a_handler_that_takes_no_notice_still_gets_its_outcome_recorded(
    corral: Corral, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.queue.worker.STOP_GRACE_S", 0.2)
    started = asyncio.Event()
    release = asyncio.Event()

    @corral.handler("stubborn", concurrency=1, attempts=1)
    async def stubborn(_: Job[Any]) -> str:
        started.set()
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "too late"

    async with await corral.start_workers():
        job = await corral.add_job("stubborn", None)
        await started.wait()
        await corral.cancel_job("stubborn", job.id, by="ann")
        status = await until_state(corral, "stubborn", job.id, JobState.FAILED)
        assert "cancelled by ann" in (status.error or "")
        release.set()
        again = await corral.add_job("stubborn", None)
        assert await corral.wait_for_result(again, timeout=SOON) == "too late"
    assert (await corral.get_job_status("stubborn", job.id)).state is JobState.FAILED


async def test_a_server_that_answers_but_cannot_is_not_asked_without_a_pause(
    corral_private_server: EmbeddedServer,
) -> None:
    server = corral_private_server
    started, release = asyncio.Event(), asyncio.Event()
    busy = "local t = redis.call('TIME')[1]; while redis.call('TIME')[1] - t < 3 do end return 1"
    async with Corral(server.url, settings=settings(lease=timedelta(seconds=20)), job_types=()) as corral:

        @corral.handler("work")
        async def work(_: Job[Any]) -> str:
            started.set()
            await release.wait()
            return "done"

        async with await corral.start_workers():
            job = await corral.add_job("work", None)
            await started.wait()
            await asyncio.to_thread(server.command, "CONFIG", "SET", "busy-reply-threshold", "10")
            script = asyncio.create_task(
                asyncio.to_thread(server.command, "EVAL", busy, "0", timeout=timedelta(seconds=10))
            )
            async with asyncio.timeout(5):
                while "BUSY" not in await asyncio.to_thread(server.command, "PING"):
                    await asyncio.sleep(0.01)
            release.set()
            await script
            assert await corral.wait_for_result(job, timeout=SOON) == "done"
    # One each half second, the leases' and this test's own; without a pause there are over a hundred.
    assert 2 <= _refused(server) <= 60


def _refused(server: EmbeddedServer) -> int:
    """How many commands the server has refused as it was busy."""
    found = re.search(r"errorstat_BUSY:count=(\d+)", server.command("INFO", "errorstats"))
    return int(found[1]) if found else 0
