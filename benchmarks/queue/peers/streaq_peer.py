"""streaQ with its defaults; results kept (its default, five minutes)."""

from __future__ import annotations

from datetime import timedelta

import protocol
import tally
from streaq import Worker

app = Worker(redis_url=tally.REDIS_URL, queue_name=tally.QUEUE, concurrency=tally.CONCURRENCY)


@app.task(name="noop")
async def noop(n: int, due: float, text: str) -> dict[str, int]:  # noqa: ARG001 - the payload
    return tally.job(n, due)


class Producer:
    async def open(self) -> None:
        await app.__aenter__()

    async def add(self, n: int, due: float, delay_s: float) -> None:
        task = noop.enqueue(n, due, protocol.TEXT)
        await (task.start(delay=timedelta(seconds=delay_s)) if delay_s else task)

    async def add_bulk(self, numbers: list[int]) -> bool:
        await app.enqueue_many([noop.enqueue(n, 0.0, protocol.TEXT) for n in numbers])
        return True

    async def close(self) -> None:
        await app.__aexit__(None, None, None)


def worker() -> None:
    app.run_sync()


if __name__ == "__main__":
    protocol.main(Producer, worker)
