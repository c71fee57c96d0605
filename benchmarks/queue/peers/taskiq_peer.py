"""taskiq on a Redis stream with its Redis result backend, as taskiq-redis's README recommends, and uvloop."""

from __future__ import annotations

import sys

import protocol
import tally
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

broker = RedisStreamBroker(url=tally.REDIS_URL, queue_name=tally.QUEUE).with_result_backend(
    RedisAsyncResultBackend(redis_url=tally.REDIS_URL, prefix_str="taskiq-result", result_ex_time=3600)
)


@broker.task(task_name="noop")
async def noop(n: int, due: float, text: str) -> dict[str, int]:  # noqa: ARG001 - the payload
    return tally.job(n, due)


class Producer:
    async def open(self) -> None:
        await broker.startup()

    async def add(self, n: int, due: float, delay_s: float) -> None:
        if delay_s:
            raise NotImplementedError("delays need its separate scheduler process")
        await noop.kiq(n, due, protocol.TEXT)

    async def add_bulk(self, _numbers: list[int]) -> bool:
        return False

    async def close(self) -> None:
        await broker.shutdown()


def worker() -> None:
    from taskiq.__main__ import main

    limit = str(tally.CONCURRENCY)
    sys.argv = [
        *("taskiq", "worker", "taskiq_peer:broker", "--workers", "1", "--max-async-tasks", limit),
        *("--max-prefetch", limit, "--log-level", "ERROR"),
    ]
    main()


if __name__ == "__main__":
    protocol.main(Producer, worker)
