"""What is done to workers and to Redis, and what must be true afterwards. Short in the tests, long in the soak."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from tests.soak.crew import Crew, WorkerProcess, eventually

from corral import Corral, Settings


def producer(crew: Crew, *queues: str, url: str | None = None) -> Corral:
    """A client that adds jobs whose workers live in other processes."""
    corral = Corral(settings=Settings(_env_file=None, redis_url=url or crew.direct_url or crew.url, prefix=crew.prefix))
    for queue in queues or crew.queues:
        corral.declare(queue)
    return corral


async def add(corral: Corral, queue: str, count: int, **data: Any) -> list[str]:
    """Add jobs in bulk; their ids."""
    return [job.id for job in await corral.add_jobs(queue, [data] * count)]


async def kill_storm(crew: Crew, *, jobs: int, kills: int, workers: int, seconds: float, concurrency: int) -> None:
    """SIGKILL workers with jobs active, again and again.

    Every job finishes, none twice in the record; crashes are counted apart from attempts.
    """
    (queue,) = crew.queues
    options = {"concurrency": concurrency, "max_crashes": 1000}
    async with producer(crew) as corral:
        await asyncio.gather(*(crew.hire(**options) for _ in range(workers)))
        ids: list[str] = []
        for _ in range(kills):
            # A share of the jobs for each round: there is always something to lose.
            ids += await add(corral, queue, jobs // kills, seconds=seconds)
            victim = random.choice(crew.workers)  # noqa: S311 - any will do
            await until_active(crew, victim.pid)
            await crew.dismiss(victim, signal.SIGKILL)
            await crew.hire(**options)
        await crew.wait_until_done(queue, len(ids), within_s=60 + jobs * seconds / concurrency)
        await crew.assert_each_completed_once(queue, ids)
        crashed = 0
        for job_id in ids:
            status = await corral.get_job_status(queue, job_id)
            assert status.attempts == 1, status
            crashed += status.crashes
        assert crashed >= kills, f"{kills} kills left {crashed} crashes"


async def until_active(crew: Crew, pid: int) -> None:
    """Wait until a worker is in the middle of a job."""

    def active() -> bool:
        mine = [entry for entry in crew.ledger() if entry.pid == pid]
        return sum(entry.event == "start" for entry in mine) > sum(entry.event != "start" for entry in mine)

    await eventually(active, f"worker {pid} to be busy")


async def rolling_restarts(crew: Crew, *, jobs: int, restarts: int, workers: int, seconds: float) -> None:
    """SIGTERM one worker after another under load; nothing is lost and nothing runs twice to the end."""
    (queue,) = crew.queues
    async with producer(crew) as corral:
        for _ in range(workers):
            await crew.hire()
        ids: list[str] = []

        async def load() -> None:
            for _ in range(restarts):
                ids.extend(await add(corral, queue, jobs // restarts, seconds=seconds))
                await asyncio.sleep(0)

        loading = asyncio.create_task(load())
        for _ in range(restarts):
            oldest = crew.workers[0]
            newer = asyncio.create_task(crew.hire())
            await until_active(crew, oldest.pid)
            assert await crew.dismiss(oldest) == 0, oldest.log
            await newer
        await loading
        await crew.wait_until_done(queue, len(ids))
        await crew.assert_each_completed_once(queue, ids)
        ended = Counter(entry.id for entry in crew.ledger("end"))
        assert ended == Counter(ids), {job_id: count for job_id, count in ended.items() if count != 1}
        for job_id in ids:
            status = await corral.get_job_status(queue, job_id)
            assert (status.attempts, status.crashes) == (1, 0), status


async def trickle(corral: Corral, queue: str, stop: asyncio.Event, *, seconds: float, pause: float) -> list[str]:
    """Add jobs one by one until told to stop; the ids of those that were acknowledged."""
    acknowledged = []
    while not stop.is_set():
        try:
            acknowledged.append((await corral.add_job(queue, {"seconds": seconds})).id)
        except Exception as error:
            if "StoreUnavailable" not in {kind.__name__ for kind in type(error).__mro__}:
                raise
        await asyncio.sleep(pause)
    return acknowledged


async def cancel_latency(crew: Crew, *, rounds: int, worker: WorkerProcess) -> list[float]:
    """Seconds from ``cancel_job`` to the handler's ``CancelledError``, over rounds."""
    (queue,) = crew.queues
    latencies = []
    async with producer(crew) as corral:
        for number in range(rounds):
            job = await corral.add_job(queue, {"seconds": 600})
            await crew.wait_for_entries("start", 1, job_id=job.id)
            began = time.time()
            await corral.cancel_job(queue, job.id, reason=f"round {number}", by="tester")
            (entry,) = await crew.wait_for_entries("cancelled", 1, job_id=job.id)
            latencies.append(entry.at - began)
            await crew.wait_until_done(queue, number + 1)
            status = await corral.get_job_status(queue, job.id)
            assert status.cancelled, status
            assert "tester" in (status.error or "")
            assert f"round {number}" in (status.error or "")
            assert len(crew.ledger("start", job.id)) == 1
    assert worker.process is not None
    assert worker.process.returncode is None
    return latencies


def windows(starts: Sequence[float], duration: timedelta) -> list[int]:
    """How many starts each fixed window of the limit holds, counted from the first start."""
    length = duration.total_seconds()
    found = Counter(int((at - starts[0]) / length) for at in starts)
    return [found[number] for number in range(max(found) + 1)]
