"""What a hit of the response cache costs beside a bare GET of the same size."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from functools import partial

from redis.asyncio import Redis

from corral.adapters.llm.port import Message, ModelAnswer, ModelRequest, Role, Usage
from corral.adapters.llm.response_cache import CachedModel, ResponseCache
from corral.adapters.llm.scripted import ScriptedModel
from corral.testing import EmbeddedServer

ROUNDS = 40
CALLS = 100
SIZES = (200, 2_000, 10_000, 40_000, 200_000)


async def _per_call_us(call: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    for _ in range(CALLS):
        await call()
    return 1e6 * (time.perf_counter() - began) / CALLS


async def main() -> None:
    print(f"{'answer, characters':>20}{'stored, bytes':>15}{'GET, µs':>10}{'hit, µs':>10}{'ratio':>8}")
    with EmbeddedServer() as server:
        redis = Redis.from_url(server.url, decode_responses=True)
        async with ResponseCache(redis) as cache:
            for size in SIZES:
                text = "".join(f"    value_{number} = compute({number * 7919})\n" for number in range(size // 30))[
                    :size
                ]
                model = CachedModel(
                    ScriptedModel([ModelAnswer(text=text, usage=Usage(input_tokens=1, output_tokens=1))]), cache
                )
                request = ModelRequest(
                    system="s" * 500, messages=(Message(role=Role.USER, text="q" * 8000),), seed=size
                )
                await model.complete(request)
                key = cache.key(model.name, request)
                stored = await redis.strlen(key)
                await redis.set("bare", await redis.execute_command("GET", key, NEVER_DECODE=True))
                gets: list[float] = []
                hits: list[float] = []
                for _ in range(ROUNDS):  # turn about, so that a busy moment meets both
                    gets.append(await _per_call_us(lambda: redis.execute_command("GET", "bare", NEVER_DECODE=True)))
                    hits.append(await _per_call_us(partial(model.complete, request)))
                get_us, hit_us = statistics.median(gets), statistics.median(hits)
                print(f"{size:>20}{stored:>15}{get_us:>10.0f}{hit_us:>10.0f}{hit_us / get_us:>8.2f}")
        await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
