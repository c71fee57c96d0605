"""What a hit of the response cache costs beside a bare GET of the same size: ``python -m benchmarks.response_cache``.

Both go through the same client, turn about in one run. No request object is used twice: each hit is of one that was
just made (as after a restart), or, as in a loop of steps, of one whose last message alone is new.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from redis.asyncio import Redis

from corral.adapters.llm.cached_model import CachedModel
from corral.adapters.llm.port import Message, ModelAnswer, ModelRequest, Role, Tool, ToolCall, Usage
from corral.adapters.llm.redis_client import RedisClient
from corral.adapters.llm.response_cache import ResponseCache
from corral.adapters.llm.scripted import ScriptedModel
from corral.testing import EmbeddedServer

ROUNDS = 40
CALLS = 50
TOOLS = tuple(
    Tool(
        name=f"tool_{number}",
        description="Do one thing to one file of the project, and say what came of it.",
        parameters=json.dumps({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
    )
    for number in range(9)
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One size of question and answer."""

    name: str
    answer: int
    """Characters."""
    make: Callable[[], ModelRequest]
    """A request that equals the last one, made anew."""


def _question(characters: int) -> Callable[[], ModelRequest]:
    # Joined from pieces, so that each is a string of its own, as it would be after reading it from somewhere.
    return lambda: ModelRequest(
        system="s" * 500, messages=(Message(role=Role.USER, text="".join(["q" * (characters - 1), "?"])),), seed=1
    )


def _step(characters: int, turns: int) -> Callable[[], ModelRequest]:
    """A step of a loop: all but the newest answer of a tool was part of the step before."""
    earlier: list[Message] = [Message(role=Role.USER, text="q" * 8000)]
    each = (characters - 8000) // turns
    for turn in range(turns):
        call = ToolCall(id=f"c{turn}", name="tool_1", arguments='{"path": "src/a.py"}')
        earlier.append(Message(role=Role.ASSISTANT, text="I look.", tool_calls=(call,), native="{}"))
        earlier.append(Message(role=Role.TOOL, text=f"{turn:<{each}}", tool_call_id=call.id, tool_name=call.name))
    *kept, last = earlier
    return lambda: ModelRequest(system="s" * 500, messages=(*kept, last.model_copy()), tools=TOOLS)


CASES = (
    *(
        Case(name=f"question of {asked:,}", answer=answer, make=_question(asked))
        for asked, answer in (
            (8_000, 200), (8_000, 2_000), (8_000, 10_000), (8_000, 40_000), (8_000, 200_000), (8_000, 400_000),
            (1_000, 2_000), (40_000, 2_000), (200_000, 2_000),
        )
    ),
    Case(name="step, 20 turns, 60,000", answer=2_000, make=_step(60_000, 20)),
    Case(name="step, 40 turns, 200,000", answer=2_000, make=_step(200_000, 40)),
)  # fmt: skip


async def _per_call(calls: list[Callable[[], Awaitable[object]]]) -> tuple[float, float]:
    """Microseconds of wall-clock and of processor time for each call."""
    began, cpu = time.perf_counter(), time.process_time()
    for call in calls:
        await call()
    each = 1e6 / len(calls)
    return each * (time.perf_counter() - began), each * (time.process_time() - cpu)


async def _measure(redis: Redis, cache: ResponseCache, case: Case) -> str:
    text = "".join(f"    value_{number} = compute({number * 7919})\n" for number in range(case.answer // 25))
    answer = ModelAnswer(text=text[: case.answer], usage=Usage(input_tokens=1, output_tokens=1))
    model = CachedModel(ScriptedModel([answer], name=f"m{case.name}{case.answer}"), cache)
    await model.complete(case.make())
    key = cache.key(model.name, case.make())
    stored = await redis.strlen(key)
    client: RedisClient = redis
    await redis.set("bare", await client.execute_command("GET", key, NEVER_DECODE=True))
    gets: list[tuple[float, float]] = []
    hits: list[tuple[float, float]] = []

    gc.collect()
    for _ in range(ROUNDS):  # turn about, so that a busy moment meets both
        gets.append(await _per_call([partial(client.execute_command, "GET", "bare", NEVER_DECODE=True)] * CALLS))
        requests = [case.make() for _ in range(CALLS)]
        hits.append(await _per_call([partial(model.complete, one) for one in requests]))
    wall, cpu = (statistics.median(hit[at] / get[at] for get, hit in zip(gets, hits, strict=True)) for at in (0, 1))
    get_us, hit_us = (statistics.median(one[0] for one in each) for each in (gets, hits))
    return f"{case.name:26}{case.answer:>10,}{stored:>10,}{get_us:>9.0f}{hit_us:>9.0f}{wall:>8.2f}{cpu:>16.2f}"


async def main() -> None:
    print(f"{'':26}{'answer':>10}{'stored':>10}{'GET, µs':>9}{'hit, µs':>9}{'ratio':>8}{'processor ratio':>16}")
    with EmbeddedServer() as server:
        redis = Redis.from_url(server.url, decode_responses=True)
        async with ResponseCache(redis) as cache:
            for case in CASES:
                print(await _measure(redis, cache, case), flush=True)
        await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
