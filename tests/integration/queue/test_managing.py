"""Managing: states change as asked, and what is impossible is said, not ignored."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.queue.conftest import SOON, settings, until_state

from corral import (
    Corral,
    Job,
    JobNotFound,
    JobState,
    JobStateConflict,
    PayloadInvalid,
    ResultTimedOut,
)
from corral.errors import ConfigurationError, StoreUnsuitable
from corral.testing.server import EmbeddedServer

Raw = Callable[..., Awaitable[Any]]


@pytest.fixture(autouse=True)
def declared(corral: Corral) -> None:
    corral.declare("work")


@pytest.mark.parametrize(
    "method", ["get_job_status", "get_job_logs", "cancel_job", "retry_job", "promote_job", "remove_job"]
)
async def test_an_unknown_id_is_a_clear_error(corral: Corral, method: str) -> None:
    with pytest.raises(JobNotFound, match="'nope'"):
        await getattr(corral, method)("work", "nope")


async def test_waiting_for_an_unknown_job_or_for_too_long(corral: Corral) -> None:
    with pytest.raises(JobNotFound):
        await corral.wait_for_result(("work", "nope"), timeout=SOON)
    job = await corral.add_job("work", None)
    with pytest.raises(ResultTimedOut):
        await corral.wait_for_result(job, timeout=timedelta(milliseconds=50))


async def test_stats_count_every_state(corral: Corral) -> None:
    await corral.add_job("work", None, priority=0)
    await corral.add_jobs("work", [1, 2])
    await corral.add_job("work", None, delay=timedelta(hours=1))
    stats = await corral.get_queue_stats("work")
    assert (stats.waiting, stats.prioritized, stats.delayed, stats.total) == (3, 2, 1, 4)
    assert not stats.paused


async def test_a_paused_queue_starts_nothing_until_it_is_resumed(corral: Corral) -> None:
    @corral.handler("quick")
    async def quick(_: Job[Any]) -> str:
        return "ran"

    await corral.pause_queue("quick")
    assert (await corral.get_queue_stats("quick")).paused
    async with await corral.start_workers():
        job = await corral.add_job("quick", None)
        with pytest.raises(ResultTimedOut):
            await corral.wait_for_result(job, timeout=timedelta(milliseconds=300))
        await corral.resume_queue("quick")
        assert await corral.wait_for_result(job, timeout=SOON) == "ran"
    assert not (await corral.get_queue_stats("quick")).paused


async def test_retry_remove_and_clean(corral: Corral) -> None:
    fail = True

    @corral.handler("moody", attempts=1)
    async def moody(_: Job[Any]) -> str:
        if fail:
            raise ValueError("bad mood")
        return "fine"

    async with await corral.start_workers():
        jobs = [await corral.add_job("moody", None) for _ in range(3)]
        for job in jobs:
            await until_state(corral, "moody", job.id, JobState.FAILED)
        fail = False
        await corral.retry_job("moody", jobs[0].id)
        assert await corral.wait_for_result(jobs[0], timeout=SOON) == "fine"
        assert (await corral.get_job_status("moody", jobs[0].id)).attempts == 1
        assert await corral.retry_jobs("moody") == 2
        for job in jobs[1:]:
            assert await corral.wait_for_result(job, timeout=SOON) == "fine"
    with pytest.raises(JobStateConflict, match="completed"):
        await corral.cancel_job("moody", jobs[0].id)
    await corral.remove_job("moody", jobs[0].id)
    assert await corral.clean_queue("moody", timedelta(hours=1)) == []
    assert await corral.clean_queue("moody", 3_600_000) == []
    assert set(await corral.clean_queue("moody", 0)) == {jobs[1].id, jobs[2].id}
    assert (await corral.get_queue_stats("moody")).total == 0


async def test_clean_takes_a_limit_and_other_states(corral: Corral) -> None:
    await corral.add_jobs("work", list(range(10)), priority=0)
    assert len(await corral.clean_queue("work", 0, states=[JobState.WAITING], limit=3)) == 3
    assert (await corral.get_queue_stats("work")).waiting == 7
    with pytest.raises(PayloadInvalid, match="active"):
        await corral.clean_queue("work", 0, states=[JobState.ACTIVE])


async def test_drain_and_obliterate(corral: Corral, raw: Raw) -> None:
    await corral.add_jobs("work", [1, 2])
    await corral.add_job("work", 3, delay=timedelta(hours=1))
    await corral.drain_queue("work")
    assert (await corral.get_queue_stats("work")).total == 1
    await corral.drain_queue("work", delayed=True)
    assert (await corral.get_queue_stats("work")).total == 0
    await corral.add_job("work", 4)
    await corral.obliterate_queue("work")
    assert await raw("KEYS", f"{corral.prefix}:*") == []


async def test_an_active_job_is_neither_removed_nor_obliterated(corral: Corral) -> None:
    release = asyncio.Event()

    @corral.handler("held")
    async def held(_: Job[Any]) -> None:
        await release.wait()

    async with await corral.start_workers():
        job = await corral.add_job("held", None)
        await until_state(corral, "held", job.id, JobState.ACTIVE)
        with pytest.raises(JobStateConflict):
            await corral.remove_job("held", job.id)
        with pytest.raises(JobStateConflict):
            await corral.obliterate_queue("held")
        (worker,) = await corral.list_workers("held")
        assert worker.active == (job.id,)
        release.set()
        await corral.wait_for_result(job, timeout=SOON)


async def test_a_queue_that_is_removed_by_force_leaves_nothing_of_its_active_job(corral: Corral, raw: Raw) -> None:
    release = asyncio.Event()

    @corral.handler("held")
    async def held(job: Job[Any]) -> Any:
        if job.data == "held":
            await release.wait()
        return job.data

    async with await corral.start_workers():
        job = await corral.add_job("held", "held")
        await until_state(corral, "held", job.id, JobState.ACTIVE)
        await corral.obliterate_queue("held", force=True)
        release.set()
        # The worker goes on, and what it had in its hands is not written.
        assert await corral.wait_for_result(await corral.add_job("held", "next", job_id="next"), timeout=SOON) == "next"
        with pytest.raises(JobNotFound):
            await corral.get_job_status("held", job.id)
    assert await raw("KEYS", f"{corral.prefix}:held:{job.id}*") == []
    stats = await corral.get_queue_stats("held")
    assert (stats.completed, stats.active, stats.total) == (1, 0, 1)


async def test_jobs_are_listed_state_after_state_in_pages(corral: Corral) -> None:
    await corral.add_jobs("work", list(range(5)), priority=0)
    await corral.add_jobs("work", list(range(5, 8)))
    await corral.add_job("work", 8, delay=timedelta(hours=1))
    found = []
    for offset in range(0, 12, 4):
        found += await corral.list_jobs("work", offset=offset, limit=4, newest_first=False)
    assert [job.data for job in found] == list(range(9))
    assert [job.state for job in found][4:6] == [JobState.WAITING, JobState.PRIORITIZED]


async def test_events_can_be_followed_and_resumed(corral: Corral) -> None:
    seen: list[tuple[str, str]] = []
    events = corral.events("work", after="0-0")
    for n in range(3):
        await corral.add_job("work", n)
    async for event in events:
        seen.append((event.name, event.job_id or ""))
        if len(seen) == 3:
            last = event.id
            break
    async for event in corral.events("work", after=last):
        seen.append((event.name, event.job_id or ""))
        if len(seen) == 6:
            break
    assert seen == [(name, str(n)) for n in (1, 2, 3) for name in ("added", "waiting")]


async def test_global_concurrency_and_rate_limit_hold_over_two_workers(
    corral: Corral, corral_server: EmbeddedServer
) -> None:
    at_once, most = 0, 0

    async def count(_: Job[Any]) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.02)
        at_once -= 1

    corral.handler("counted", concurrency=5)(count)
    await corral.set_global_concurrency("counted", 2)
    jobs = await corral.add_jobs("counted", list(range(20)))
    async with Corral(corral_server.url, prefix=corral.prefix, settings=settings(), job_types=()) as other:
        other.handler("counted", concurrency=5)(count)
        async with await corral.start_workers(), await other.start_workers():
            for job in jobs:
                await corral.wait_for_result(job, timeout=SOON)
    assert most == 2


@pytest.mark.slow
async def test_a_rate_limit_survives_a_restart_of_the_server(corral_private_server: EmbeddedServer) -> None:
    started: list[float] = []
    async with Corral(corral_private_server.url, settings=settings(), job_types=()) as corral:

        @corral.handler("limited", rate_limit=(2, timedelta(seconds=3)))
        async def limited(_: Job[Any]) -> None:
            started.append(time.monotonic())

        jobs = await corral.add_jobs("limited", [1, 2, 3])
        async with await corral.start_workers():
            for job in jobs[:2]:
                await corral.wait_for_result(job, timeout=SOON)
            await asyncio.to_thread(corral_private_server.restart)
            await corral.wait_for_result(jobs[2], timeout=timedelta(seconds=20))
    # The window that the first job began still counted the two that had started in it.
    assert started[2] - started[0] >= 2.9


async def test_what_can_not_be_served_is_said(corral: Corral) -> None:
    with pytest.raises(ConfigurationError, match="No handler is declared here for work"):
        await corral.start_workers(["work"])
    with pytest.raises(ConfigurationError, match="nothing to work on"):
        await corral.start_workers()
    with pytest.raises(ConfigurationError, match="declared already"):
        corral.declare("work")


async def test_a_server_that_evicts_keys_is_refused() -> None:
    with EmbeddedServer(options={"maxmemory-policy": "allkeys-lru"}) as server:
        async with Corral(server.url, settings=settings(), job_types=()) as corral:

            @corral.handler("any")
            async def any_job(_: Job[Any]) -> None: ...

            with pytest.raises(StoreUnsuitable, match="noeviction"):
                await corral.start_workers()


async def test_asking_for_one_job_does_not_look_through_all_that_wait(corral: Corral) -> None:
    """In place of the list of waiting jobs stands what Redis can't look through."""
    job = await corral.add_job("work", {}, priority=0)
    wait = f"{corral.prefix}:work:wait"
    await corral.redis.rename(wait, f"{wait}-aside")
    await corral.redis.set(wait, "not a list")
    assert (await corral.get_job_status("work", job.id)).state is JobState.WAITING
    await corral.redis.rename(f"{wait}-aside", wait)
