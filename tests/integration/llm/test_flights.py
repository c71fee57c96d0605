"""Whose flight it is: one of a process that was frozen for longer than its flight lives is not its own any more."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from corral.testing import EmbeddedServer

PROGRAM = """
import asyncio, sys
from redis.asyncio import Redis
from corral.adapters.llm import flights
from corral.adapters.llm.response_cache import ResponseCache

flights._RENEWAL_S = 0.05

async def main():
    redis = Redis.from_url(sys.argv[1], decode_responses=True)
    async with ResponseCache(redis) as cache, cache.slot("m", "q") as slot:
        await redis.incr("calls")
        await redis.blpop("go-on", 30)
    await redis.aclose()

asyncio.run(main())
"""


async def until(happened: Any) -> None:
    async with asyncio.timeout(30):
        while not await happened():
            await asyncio.sleep(0.02)


async def scripts_run(redis: Any) -> int:
    stats = await redis.info("commandstats")
    return int(stats.get("cmdstat_eval", {"calls": 0})["calls"])


@asynccontextmanager
async def asking(redis: Any, server: EmbeddedServer) -> AsyncIterator[tuple[Any, str]]:
    """A process that holds a flight until ``go-on``, and the flight's key."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PROGRAM, server.url, cwd="src")
    try:
        await until(lambda: redis.get("calls"))
        [flight] = await redis.keys("llm-cache:flight:*")
        yield process, flight
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
            await process.wait()


async def test_a_frozen_one_neither_prolongs_nor_ends_the_flight_of_another(
    redis: Any, own_server: EmbeddedServer
) -> None:
    async with asking(redis, own_server) as (process, flight):
        process.send_signal(signal.SIGSTOP)
        await redis.set(flight, "another", px=60_000)  # the first one's had expired
        before = await scripts_run(redis)
        process.send_signal(signal.SIGCONT)

        async def renewed() -> bool:
            return await scripts_run(redis) > before

        await until(renewed)
        assert await redis.pttl(flight) > 30_000
        await redis.rpush("go-on", "1")
        assert await process.wait() == 0
    assert await redis.get(flight) == "another"
    assert await redis.pttl(flight) > 30_000


async def test_a_flight_that_expired_is_taken_again_while_nobody_else_has_it(
    redis: Any, own_server: EmbeddedServer
) -> None:
    async with asking(redis, own_server) as (process, flight):
        token = await redis.get(flight)
        await redis.delete(flight)
        await until(lambda: redis.exists(flight))
        assert await redis.get(flight) == token
        assert 0 < await redis.pttl(flight) <= 10_000
        await redis.rpush("go-on", "1")
        assert await process.wait() == 0
    assert not await redis.exists(flight)
