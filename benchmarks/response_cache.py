"""What a hit of the response cache costs beside a bare GET of the same size: ``python -m benchmarks.response_cache``.

Hits and GETs go turn about in one run: through redis-py, as with any user's client, and through the connection that a
``Corral`` gives its cache. No request object is used twice: each hit is of one that was just made (as after a restart),
or, as in a loop of steps, of one whose last message alone is new.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis.asyncio import Redis

from corral.adapters.llm.cached_model import CachedModel
from corral.adapters.llm.port import Message, ModelAnswer, ModelRequest, Role, Tool, ToolCall, Usage
from corral.adapters.llm.response_cache import ResponseCache
from corral.adapters.llm.scripted import ScriptedModel
from corral.testing import EmbeddedServer
from corral.wire.address import parse_redis_url
from corral.wire.connector import connector
from corral.wire.pipe_client import PipeClient

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


@dataclass(frozen=True, kw_only=True)
class Clients:
    """Both ways to the server, and a cache over each."""

    redis: Redis
    quick: PipeClient
    over_redis: ResponseCache
    over_quick: ResponseCache


async def _per_call(calls: Sequence[Callable[[], Awaitable[object]]]) -> tuple[float, float]:
    """Microseconds of wall-clock and of processor time for each call."""
    began, cpu = time.perf_counter(), time.process_time()
    for call in calls:
        await call()
    each = 1e6 / len(calls)
    return each * (time.perf_counter() - began), each * (time.process_time() - cpu)


async def _measure(clients: Clients, case: Case) -> str:
    text = "".join(f"    value_{number} = compute({number * 7919})\n" for number in range(case.answer // 25))
    answer = ModelAnswer(text=text[: case.answer], usage=Usage(input_tokens=1, output_tokens=1))
    scripted = ScriptedModel([answer], name=f"m{case.name}{case.answer}")
    slow, quick = (CachedModel(scripted, cache) for cache in (clients.over_redis, clients.over_quick))
    await slow.complete(case.make())
    stored = await clients.quick.execute_command("GET", ResponseCache.key(scripted.name, case.make()))
    # As long as what is stored, and text, which ``get`` decodes.
    await clients.redis.set("bare", "x" * len(stored))
    redis: Any = clients.redis
    same: dict[str, Callable[[], Awaitable[object]]] = {
        "get": partial(redis.get, "bare"),
        "bytes": partial(redis.execute_command, "GET", "bare", NEVER_DECODE=True),
        "quick": partial(clients.quick.execute_command, "GET", "bare"),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in (*same, "hit", "quick hit")}
    gc.collect()
    for _ in range(ROUNDS):  # turn about, so that a busy moment meets all
        for name, call in same.items():
            times[name].append(await _per_call([call] * CALLS))
        for name, model in (("hit", slow), ("quick hit", quick)):
            requests = [case.make() for _ in range(CALLS)]
            times[name].append(await _per_call([partial(model.complete, one) for one in requests]))

    def us(name: str) -> str:
        return f"{statistics.median(wall for wall, _ in times[name]):.0f}"

    def ratio(name: str, other: str) -> str:
        wall, cpu = (
            statistics.median(one[at] / two[at] for one, two in zip(times[name], times[other], strict=True))
            for at in (0, 1)
        )
        return f"{wall:.2f} ({cpu:.2f})"

    cells = [
        us("get"), us("hit"), ratio("hit", "get"), ratio("hit", "bytes"),
        us("quick"), us("quick hit"), ratio("quick hit", "get"), ratio("quick hit", "quick"),
    ]  # fmt: skip
    return _row(case.name, f"{case.answer:,}", f"{len(stored):,}", *cells)


def _row(*cells: str) -> str:
    name, *others = cells
    return f"{name:26}" + "".join(f"{cell:>14}" for cell in others)


async def main() -> None:
    print("Times in µs of wall-clock; ratios of wall-clock, and in brackets of processor time")
    print(
        _row(
            "", "answer", "stored", "get", "hit", "hit/get", "hit/GET bytes",
            "own GET", "own hit", "own hit/get", "own hit/GET",
        )
    )  # fmt: skip
    with EmbeddedServer() as server:
        redis = Redis.from_url(server.url, decode_responses=True)
        quick = PipeClient(connector(parse_redis_url(server.url), "bull"), name="cache")
        async with ResponseCache(redis) as over_redis, ResponseCache(quick) as over_quick:
            clients = Clients(redis=redis, quick=quick, over_redis=over_redis, over_quick=over_quick)
            for case in CASES:
                print(await _measure(clients, case), flush=True)
        await quick.close()
        await redis.aclose()


if __name__ == "__main__":
    asyncio.run(main())
