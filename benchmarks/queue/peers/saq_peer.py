"""SAQ with hiredis, which its README recommends; results kept (its default, ten minutes)."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import protocol
import tally
from saq import Queue, Worker

queue = Queue.from_url(tally.REDIS_URL, name=tally.QUEUE)


async def noop(_ctx: Any, *, n: int, due: float, text: str) -> dict[str, int]:  # noqa: ARG001 - the payload
    return tally.job(n, due)


class Producer:
    async def open(self) -> None:
        await queue.connect()

    async def add(self, n: int, due: float, delay_s: float) -> None:
        await queue.enqueue(
            "noop", n=n, due=due, text=protocol.TEXT, scheduled=int(time.time() + delay_s) if delay_s else 0
        )

    async def add_bulk(self, _numbers: list[int]) -> bool:
        return False

    async def close(self) -> None:
        await queue.disconnect()


def worker() -> None:
    asyncio.run(Worker(queue, functions=[noop], concurrency=tally.CONCURRENCY).start())


if __name__ == "__main__":
    protocol.main(Producer, worker)
