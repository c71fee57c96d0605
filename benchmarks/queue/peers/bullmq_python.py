"""The official Python ``bullmq``, as its documentation shows it."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import protocol
import tally
from bullmq import Queue, Worker


class Producer:
    async def open(self) -> None:
        self.queue = Queue(tally.QUEUE, {"connection": tally.REDIS_URL})

    async def add(self, n: int, due: float, delay_s: float) -> None:
        await self.queue.add(
            "noop", {"n": n, "due": due, "text": protocol.TEXT}, {"delay": round(delay_s * 1000)} if delay_s else {}
        )

    async def add_bulk(self, numbers: list[int]) -> bool:
        await self.queue.addBulk(
            [{"name": "noop", "data": {"n": n, "due": 0, "text": protocol.TEXT}, "opts": {}} for n in numbers]
        )
        return True

    async def close(self) -> None:
        await self.queue.close()


async def _handle(job: Any, _token: str) -> dict[str, int]:
    return tally.job(job.data["n"], job.data["due"])


async def _work() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    worker = Worker(tally.QUEUE, _handle, {"connection": tally.REDIS_URL, "concurrency": tally.CONCURRENCY})
    await stop.wait()
    await worker.close()


def worker() -> None:
    asyncio.run(_work())


if __name__ == "__main__":
    protocol.main(Producer, worker)
