"""What is done to workers and to Redis, and what must be true afterwards. Short in the tests, long in the soak."""

from __future__ import annotations

import asyncio
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tests.soak.crew import Crew, WorkerProcess, eventually

from corral import Corral, Settings
from corral.errors import StoreUnavailable
from corral.testing import EmbeddedServer, TcpProxy
from corral.wire.pipe import ANSWER_TIMEOUT_S


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
            victim = random.choice(crew.workers)  # noqa: S311 - any will do
            # A share of the jobs for each round, and more where they were done before the victim was seen at work.
            ids += await add(corral, queue, jobs // kills, seconds=seconds)
            deadline = time.monotonic() + 60
            while not busy(crew, victim.pid):
                assert time.monotonic() < deadline, f"worker {victim.pid} gets no job: {victim.log}"
                if not (await corral.get_queue_stats(queue)).waiting:
                    ids += await add(corral, queue, concurrency * workers, seconds=seconds)
                await asyncio.sleep(0.01)
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


def busy(crew: Crew, pid: int) -> bool:
    """Whether a worker is in the middle of a job."""
    mine = [entry for entry in crew.ledger() if entry.pid == pid]
    return sum(entry.event == "start" for entry in mine) > sum(entry.event != "start" for entry in mine)


async def until_active(crew: Crew, pid: int) -> None:
    """Wait until a worker is in the middle of a job."""
    await eventually(lambda: busy(crew, pid), f"worker {pid} to be busy")


async def rolling_restarts(crew: Crew, *, jobs: int, restarts: int, workers: int, seconds: float) -> None:
    """SIGTERM one worker after another under load; nothing is lost and nothing runs twice to the end."""
    (queue,) = crew.queues
    async with producer(crew) as corral:
        for _ in range(workers):
            await crew.hire()
        ids: list[str] = []
        for _ in range(restarts):
            ids += await add(corral, queue, jobs // restarts, seconds=seconds)
            oldest = crew.workers[0]
            newer = asyncio.create_task(crew.hire())
            await until_active(crew, oldest.pid)
            assert await crew.dismiss(oldest) == 0, oldest.log
            await newer
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


@dataclass
class Outages:
    """Disturbs Redis or the way to it while jobs are added and run, and checks after each disturbance.

    Args:
        crew: Its workers reach Redis through ``proxy``.
        server: The server itself.
        proxy: Between all clients and the server.
    """

    crew: Crew
    server: EmbeddedServer
    proxy: TcpProxy
    #: How long Redis is away each time; less than the lease.
    away_s: float = 1.0
    #: Seconds from Redis's return to the next start of a job, by disturbance.
    back_after: dict[str, list[float]] = field(default_factory=dict)

    async def restart(self) -> None:
        """Stop Redis in good order, and start it again."""
        await asyncio.to_thread(self.server.stop)
        await asyncio.sleep(self.away_s)
        await asyncio.to_thread(self.server.start)

    async def kill(self) -> None:
        """SIGKILL Redis, and start it again."""
        await asyncio.to_thread(self.server.kill)
        await asyncio.sleep(self.away_s)
        await asyncio.to_thread(self.server.start)

    async def client_kill(self) -> None:
        """Have Redis close every connection."""
        await asyncio.to_thread(self.server.command, "CLIENT", "KILL", "TYPE", "normal")
        await asyncio.to_thread(self.server.command, "CLIENT", "KILL", "TYPE", "pubsub")

    async def cut(self) -> None:
        """Reset every connection, and refuse new ones for a while."""
        await self.proxy.cut()
        await asyncio.sleep(self.away_s)
        self.proxy.mend()

    async def half_close(self) -> None:
        """Close only the server's side."""
        self.proxy.half_close()
        await asyncio.sleep(0)

    async def drop_replies(self) -> None:
        """Let commands through and lose their answers, then cut."""
        self.proxy.drop_replies = True
        await asyncio.sleep(self.away_s)
        await self.proxy.cut()
        self.proxy.mend()

    async def stall(self) -> None:
        """Keep everything back for longer than a client waits for an answer, without closing anything."""
        self.proxy.stall()
        await asyncio.sleep(ANSWER_TIMEOUT_S + 1)
        self.proxy.mend()

    async def slow_down(self) -> None:
        """Delay everything by 50 ms each way for a while. That is no outage."""
        self.proxy.delay = timedelta(milliseconds=50)
        await asyncio.sleep(self.away_s)
        self.proxy.delay = timedelta()

    async def run(self, disturbances: Sequence[str], *, seconds: float = 0.2, producers: int = 3) -> None:
        """Do one disturbance after another under load, then see that nothing was lost and nothing ran twice."""
        (queue,) = self.crew.queues
        stop = asyncio.Event()
        async with producer(self.crew, url=self.crew.url) as corral:
            adding = [
                asyncio.create_task(trickle(corral, queue, stop, seconds=seconds, pause=0.02)) for _ in range(producers)
            ]
            for name in disturbances:
                try:
                    await self._disturb(name)
                except AssertionError:
                    for task in adding:
                        task.print_stack()  # a producer that hangs, or that died, explains much
                    raise
            stop.set()
            acknowledged = {job_id for ids in await asyncio.gather(*adding) for job_id in ids}
        await self._settle(queue)
        outcomes = await self.crew.outcomes(queue)
        assert acknowledged, "nothing was added"
        assert not acknowledged - outcomes.keys(), "acknowledged jobs are lost"
        await self.crew.assert_each_completed_once(queue, outcomes)
        ends = Counter(entry.id for entry in self.crew.ledger("end"))
        assert {job_id: count for job_id, count in ends.items() if count != 1} == {}

    async def _disturb(self, name: str) -> None:
        before = len(self.crew.ledger("start"))
        await self.crew.wait_for_entries("start", before + 5)
        logged = {worker.pid: _outages_logged(worker) for worker in self.crew.workers}
        await getattr(self, name)()
        returned = time.time()
        await eventually(
            lambda: any(entry.at > returned for entry in self.crew.ledger("start")), f"a start after {name!r}"
        )
        first = next(entry.at for entry in self.crew.ledger("start") if entry.at > returned)
        self.back_after.setdefault(name, []).append(first - returned)
        expected = 0 if name == "slow_down" else 1
        for worker in self.crew.workers:
            began, ended = logged[worker.pid]
            await eventually(
                lambda worker=worker, ended=ended: _outages_logged(worker)[1] >= ended + expected,  # type: ignore[misc]
                f"{name!r} to be logged as over by worker {worker.pid}",
            )
            assert _outages_logged(worker) == (began + expected, ended + expected), f"{name}: {worker.log[-2000:]}"

    async def _settle(self, queue: str) -> None:
        deadline = time.monotonic() + 60
        while True:
            counts = await self.crew.state_counts(queue)
            if not sum(counts.values()) - counts["completed"] - counts["failed"]:
                return
            assert time.monotonic() < deadline, counts
            await asyncio.sleep(0.05)


def _outages_logged(worker: WorkerProcess) -> tuple[int, int]:
    return worker.log.count("Redis is away"), worker.log.count("Redis is back after")


async def rate_limited(crew: Crew, *, jobs: int, limit: int, window: timedelta) -> float:
    """Run jobs under a limit, by two of Corral's workers and one of Node's; seconds from first start to last."""
    (queue,) = crew.queues
    async with producer(crew) as corral:
        await crew.hire()  # keeps the limit with the queue, where Node's worker looks
        await asyncio.gather(crew.hire(), crew.hire_node())
        await corral.pause_queue(queue)
        await corral.add_jobs(queue, [{"seconds": 0.01}] * jobs)
        await asyncio.sleep(2 * window.total_seconds())  # no window is open from before
        await corral.resume_queue(queue)
        await crew.wait_until_done(queue, jobs, within_s=60 + 2 * jobs / limit * window.total_seconds())
    starts = [entry.at for entry in crew.ledger("start")]
    assert len(starts) == jobs
    # In any stretch of one window's length lie at most two windows' jobs, whatever the phase.
    for first, last in zip(starts, starts[2 * limit :], strict=False):
        assert last - first >= window.total_seconds() * 0.9, f"{2 * limit + 1} starts within {last - first:.3f} s"
    by = Counter(entry.pid for entry in crew.ledger("start"))
    assert len(by) == 3, f"not every worker had a share: {by}"
    return starts[-1] - starts[0]


async def commands_spent(server: EmbeddedServer, period: timedelta, *, queues: int) -> Counter[str]:
    """Which commands clients send to a server in a while in which nothing happens, as the server counts them.

    Begins when a worker has looked at each of its queues and waits for their next jobs.
    """

    def count() -> Counter[str]:
        reply = server.command("INFO", "commandstats")
        found = re.findall(r"cmdstat_([^:]+):calls=(\d+)", reply)
        return Counter({name: int(calls) for name, calls in found if name not in {"info", "config|resetstat"}})

    await eventually(
        lambda: server.command("CLIENT", "LIST").count("cmd=bzpopmin") == queues,
        f"a worker that waits for {queues} queues",
    )
    await asyncio.to_thread(server.command, "CONFIG", "RESETSTAT")
    await asyncio.sleep(period.total_seconds())
    return await asyncio.to_thread(count)


async def failover(crew: Crew, kill_primary: Callable[[], Awaitable[None]], *, seconds: float = 0.1) -> float:
    """Kill the primary under load; seconds until jobs start again.

    Redis replicates without waiting, so what was written in its last moment may be gone with it: what counts is all
    that was acknowledged a second before, and that whatever is there ends once.
    """
    (queue,) = crew.queues
    stop = asyncio.Event()
    acknowledged: dict[str, float] = {}
    async with producer(crew) as corral:

        async def trickle_timed() -> None:
            while not stop.is_set():
                try:
                    acknowledged[(await corral.add_job(queue, {"seconds": seconds})).id] = time.time()
                except StoreUnavailable:
                    await asyncio.sleep(0.1)
                await asyncio.sleep(0.02)

        adding = asyncio.create_task(trickle_timed())
        await crew.wait_for_entries("start", 60)
        killed = time.time()
        await kill_primary()
        await crew.reconnect()
        after = killed + 1.0  # by then nobody takes the dead primary's jobs for news
        await eventually(lambda: any(entry.at > after for entry in crew.ledger("start")), "a start after the failover")
        back = next(entry.at for entry in crew.ledger("start") if entry.at > after) - killed
        more = len(crew.ledger("end")) + 30
        await crew.wait_for_entries("end", more)
        stop.set()
        await adding
    while sum(found for name, found in (await crew.state_counts(queue)).items() if name not in {"completed", "failed"}):
        await asyncio.sleep(0.05)
    outcomes = await crew.outcomes(queue)
    safe = {job_id for job_id, at in acknowledged.items() if not killed - 1 < at < killed + 0.5}
    assert safe - outcomes.keys() == set(), "jobs that had been there for a second are lost"
    await crew.assert_each_completed_once(queue, outcomes)
    return back


async def freeze_storm(crew: Crew, *, jobs: int, freezes: int, workers: int, seconds: float, lease_s: float) -> None:
    """SIGSTOP workers for longer than their lease, again and again: the others' results stand."""
    (queue,) = crew.queues
    async with producer(crew) as corral:
        await asyncio.gather(*(crew.hire(lease_s=lease_s, max_crashes=1000) for _ in range(workers)))
        ids: list[str] = []
        for _ in range(freezes):
            ids += await add(corral, queue, jobs // freezes, seconds=seconds)
            victim = random.choice(crew.workers)  # noqa: S311 - any will do
            await until_active(crew, victim.pid)
            victim.send(signal.SIGSTOP)
            await asyncio.sleep(lease_s + 6)  # the lease, and two sweeps of the others
            victim.send(signal.SIGCONT)
        await crew.wait_until_done(queue, len(ids), within_s=120)
        await crew.assert_each_completed_once(queue, ids)
        for worker in crew.workers:
            assert worker.process is not None
            assert worker.process.returncode is None, worker.log
