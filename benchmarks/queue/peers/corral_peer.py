"""Corral with its defaults: leases, cancellation, typed payloads and results, events."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from datetime import timedelta

import protocol
import tally
import uvloop
from pydantic import BaseModel

from corral import Corral, Job


class Noop(BaseModel):
    n: int
    due: float
    text: str


class Done(BaseModel):
    n: int


corral = Corral(redis_url=tally.REDIS_URL)


@corral.handler(tally.QUEUE)
async def noop(job: Job[Noop]) -> Done:
    return Done(**tally.job(job.data.n, job.data.due))


class Producer:
    async def open(self) -> None:
        await corral.connect()

    async def add(self, n: int, due: float, delay_s: float) -> None:
        await corral.add_job(
            tally.QUEUE,
            {"n": n, "due": due, "text": protocol.TEXT},
            priority=0,
            delay=timedelta(seconds=delay_s) if delay_s else None,
        )

    async def add_bulk(self, numbers: list[int]) -> bool:
        await corral.add_jobs(tally.QUEUE, [{"n": n, "due": 0.0, "text": protocol.TEXT} for n in numbers], priority=0)
        return True

    async def ask(self, count: int) -> dict[str, float]:
        """How long a manager waits for an answer: of the whole queue, of one job, and to pause and resume."""
        times: dict[str, list[float]] = {"stats": [], "status": [], "pause": []}
        for _ in range(count):
            for name, seconds in times.items():
                start = time.perf_counter()
                if name == "stats":
                    await corral.get_queue_stats(tally.QUEUE)
                elif name == "status":
                    await corral.get_job_status(tally.QUEUE, "1")
                else:
                    await corral.pause_queue(tally.QUEUE)
                    await corral.resume_queue(tally.QUEUE)
                seconds.append(time.perf_counter() - start)
        return {name: statistics.median(seconds) for name, seconds in times.items()}

    async def close(self) -> None:
        await corral.close()


async def _work() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    workers = await corral.start_workers([tally.QUEUE], concurrency=tally.CONCURRENCY)
    await stop.wait()
    await workers.stop(timeout=timedelta(seconds=5))
    await corral.close()


def worker() -> None:
    uvloop.run(_work())  # as `corral worker` does where the `speed` extra is installed


if __name__ == "__main__":
    protocol.main(Producer, worker)
