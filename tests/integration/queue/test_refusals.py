"""A server that answers and refuses writes for a while: producers are told at once, workers go on afterwards."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from tests.integration.queue.conftest import SOON, settings

from corral import Corral, Job, JobState, StoreUnavailable
from corral.queue.scheduler import schedule_next
from corral.testing.server import EmbeddedServer
from corral.wire.codec import JobRecord, fields


@dataclass(frozen=True)
class Refusal:
    """How a server is made to refuse writes, and to take them again."""

    begin: Callable[[EmbeddedServer], None]
    end: Callable[[EmbeddedServer], None]
    #: From the message.
    says: str


def _set(name: str, value: str) -> Callable[[EmbeddedServer], None]:
    return lambda server: _succeeds(server.command("CONFIG", "SET", name, value))


def _succeeds(reply: str) -> None:
    assert reply.startswith("+"), reply


def _fail_to_save(server: EmbeddedServer) -> None:
    (server.folder / "dump.rdb").mkdir()  # where the snapshot should go
    _set("save", "3600 1")(server)
    _save(server, "err")


def _save_again(server: EmbeddedServer) -> None:
    (server.folder / "dump.rdb").rmdir()
    _save(server, "ok")


def _save(server: EmbeddedServer, status: str) -> None:
    _succeeds(server.command("BGSAVE"))
    deadline = time.monotonic() + 10
    while f"rdb_last_bgsave_status:{status}" not in server.command("INFO", "persistence"):
        assert time.monotonic() < deadline, server.log[-2000:]
        time.sleep(0.02)


REFUSALS = {
    "OOM": Refusal(_set("maxmemory", "1mb"), _set("maxmemory", "0"), "corral clean"),
    "NOREPLICAS": Refusal(
        _set("min-replicas-to-write", "1"), _set("min-replicas-to-write", "0"), "min-replicas-to-write"
    ),
    "MISCONF": Refusal(_fail_to_save, _save_again, "can't save to its disk"),
}


@pytest.fixture(params=REFUSALS)
def refusal(request: pytest.FixtureRequest) -> Refusal:
    return REFUSALS[request.param]


@pytest.fixture
async def corral(corral_private_server: EmbeddedServer) -> AsyncIterator[Corral]:
    async with Corral(corral_private_server.url, settings=settings(lease=timedelta(seconds=20)), job_types=()) as made:
        yield made


async def test_a_producer_is_told_at_once_that_it_may_try_later(
    corral: Corral, corral_private_server: EmbeddedServer, refusal: Refusal
) -> None:
    corral.declare("work")
    await asyncio.to_thread(refusal.begin, corral_private_server)
    async with asyncio.timeout(5):
        with pytest.raises(StoreUnavailable, match=refusal.says):
            await corral.add_job("work", 1)
        with pytest.raises(StoreUnavailable, match=refusal.says):
            await corral.add_jobs("work", [1, 2])
        with pytest.raises(StoreUnavailable, match=refusal.says):
            await corral.pause_queue("work")
    assert (await corral.get_queue_stats("work")).total == 0
    await asyncio.to_thread(refusal.end, corral_private_server)
    await corral.add_job("work", 1)
    assert (await corral.get_queue_stats("work")).waiting == 1


async def test_a_worker_goes_on_when_writes_are_taken_again(
    corral: Corral, corral_private_server: EmbeddedServer, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "corral")
    started, release = asyncio.Event(), asyncio.Event()
    runs: list[str] = []

    @corral.handler("work", concurrency=1)
    async def work(job: Job[Any]) -> str:
        runs.append(job.id)
        started.set()
        await release.wait()
        return "done"

    async with await corral.start_workers():
        jobs = [await corral.add_job("work", None) for _ in range(2)]
        await started.wait()
        await asyncio.to_thread(refusal.begin, corral_private_server)
        waiting = [asyncio.create_task(corral.wait_for_result(job, timeout=SOON)) for job in jobs]
        release.set()
        async with asyncio.timeout(5):  # the next job, if not the end of the first, is refused
            while not (told := [one.getMessage() for one in caplog.records if refusal.says in one.getMessage()]):
                await asyncio.sleep(0.02)
        await asyncio.to_thread(refusal.end, corral_private_server)
        assert await asyncio.gather(*waiting) == ["done", "done"]
    assert runs == [job.id for job in jobs]
    assert len(told) == 1, told
    for job in jobs:
        status = await corral.get_job_status("work", job.id)
        assert (status.state, status.attempts, status.crashes) == (JobState.COMPLETED, 1, 0)


async def test_a_schedule_outlives_a_refusal(
    corral: Corral, corral_private_server: EmbeddedServer, refusal: Refusal, caplog: pytest.LogCaptureFixture
) -> None:
    """The successor of a job that was claimed just before is made when it may be."""
    corral.declare("tick")
    job_id = await corral.add_schedule("tick", "hourly", data=None, every=timedelta(hours=1))
    queue = await corral._queue("tick")
    record = JobRecord(job_id, fields(await queue.scripts.pipe.execute("HGETALL", queue.keys.job(job_id))))
    await asyncio.to_thread(refusal.begin, corral_private_server)
    making = asyncio.create_task(schedule_next(queue, record))
    await asyncio.wait({making}, timeout=0.3)  # it has had time to give up
    assert not making.done()
    await asyncio.to_thread(refusal.end, corral_private_server)
    await asyncio.wait_for(making, 10)
    assert (await corral.get_queue_stats("tick")).delayed == 1
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]


async def test_results_can_be_awaited_of_a_server_that_takes_no_writes(
    corral: Corral, corral_private_server: EmbeddedServer
) -> None:
    """A failed save makes PING, with which a connection is greeted, an error; what is read is there all the same."""

    @corral.handler("work")
    async def work(_: Job[Any]) -> str:
        return "done"

    async with await corral.start_workers():
        job = await corral.add_job("work", None)
        await corral.wait_for_result(job, timeout=SOON)
    await asyncio.to_thread(REFUSALS["MISCONF"].begin, corral_private_server)
    async with Corral(corral_private_server.url, settings=settings(), job_types=()) as reader:
        reader.declare("work")
        assert await reader.wait_for_result(("work", job.id), timeout=SOON) == "done"
