"""arq with its defaults, and hiredis; results kept (its default, one hour)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import protocol
import tally
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

SETTINGS = RedisSettings.from_dsn(tally.REDIS_URL)


async def noop(_ctx: dict[Any, Any], n: int, due: float, text: str) -> dict[str, int]:  # noqa: ARG001 - the payload
    return tally.job(n, due)


class Producer:
    async def open(self) -> None:
        self.pool = await create_pool(SETTINGS, default_queue_name=tally.QUEUE)

    async def add(self, n: int, due: float, delay_s: float) -> None:
        await self.pool.enqueue_job(
            "noop", n, due, protocol.TEXT, _defer_by=timedelta(seconds=delay_s) if delay_s else None
        )

    async def add_bulk(self, _numbers: list[int]) -> bool:
        return False

    async def close(self) -> None:
        await self.pool.aclose()


def worker() -> None:
    Worker([noop], queue_name=tally.QUEUE, redis_settings=SETTINGS, max_jobs=tally.CONCURRENCY, log_results=False).run()


if __name__ == "__main__":
    protocol.main(Producer, worker)
