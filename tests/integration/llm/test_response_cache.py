from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

import pytest

from corral.adapters.llm.cached_model import CachedModel
from corral.adapters.llm.port import Finish, Message, ModelAnswer, ModelRequest, Role, ToolCall, Usage
from corral.adapters.llm.response_cache import ResponseCache
from corral.adapters.llm.scripted import ScriptedModel
from corral.errors import LlmFailed
from corral.testing import EmbeddedServer

ANSWER = ModelAnswer(text="yes", usage=Usage(input_tokens=10, output_tokens=5, usd=0.25), model="m")


def question(text: str = "Is it?", **options: Any) -> Any:
    return ModelRequest(system="s", messages=(Message(role=Role.USER, text=text),), **options)


async def test_the_second_time_costs_nothing(store: Any, redis: Any) -> None:
    model = ScriptedModel([ANSWER], name="m:1")
    async with ResponseCache(store) as cache:
        cached = CachedModel(model, cache)
        first, second = await cached.complete(question()), await cached.complete(question())
        assert (first.from_cache, second.from_cache) == (False, True)
        assert second == first.model_copy(update={"from_cache": True})
        stats = await cache.stats("m:1")
    assert (stats.hits, stats.misses, stats.stored, stats.saved_tokens, stats.saved_usd) == (1, 1, 1, 15, 0.25)
    key = ResponseCache.key("m:1", question())
    assert key.startswith("llm:m:1:")
    assert 3_590_000 < await redis.pttl(key) <= 3_600_000


@pytest.mark.parametrize(
    "other",
    [
        question("Was it?"), question(temperature=0.1), question(seed=1), question(max_tokens=1), question(stop=("x",)),
        question(output_schema={"type": "object"}), question().model_copy(update={"system": "t"}),
    ],
)  # fmt: skip
def test_everything_that_decides_the_answer_decides_the_key(other: Any) -> None:
    assert ResponseCache.key("m", other) != ResponseCache.key("m", question())
    assert ResponseCache.key("n", question()) != ResponseCache.key("m", question())


async def test_by_itself_it_keeps_anything_that_json_can_hold(store: Any) -> None:
    async with ResponseCache(store, ttl=timedelta(seconds=60)) as cache:
        async with cache.slot("gpt", {"prompt": "p", "n": 1}) as slot:
            assert not slot.hit
            slot.keep({"text": "ä"}, usd=0.5)
        async with cache.slot("gpt", {"n": 1, "prompt": "p"}) as slot:
            assert slot.hit
            assert slot.value == {"text": "ä"}


@pytest.mark.parametrize(
    "answer",
    [
        ModelAnswer(text="half", finish=Finish.LENGTH), ModelAnswer(text="no", finish=Finish.REFUSAL), ModelAnswer(),
    ],
)  # fmt: skip
async def test_truncations_refusals_and_nothing_are_not_kept(store: Any, answer: Any) -> None:
    model = ScriptedModel([answer, ANSWER], name="m")
    async with ResponseCache(store) as cache:
        cached = CachedModel(model, cache)
        await cached.complete(question())
        assert (await cached.complete(question())).text == "yes"


async def test_an_error_is_not_kept_and_the_next_one_asks(store: Any, redis: Any) -> None:
    error = LlmFailed("no", service="m", operation="complete", retryable=True)
    model = ScriptedModel([error, ANSWER], name="m")
    async with ResponseCache(store) as cache:
        cached = CachedModel(model, cache)
        with pytest.raises(LlmFailed):
            await cached.complete(question())
        assert (await cached.complete(question())).text == "yes"
    assert await redis.keys("llm-cache:flight:*") == []


class SlowModel(ScriptedModel):
    def __init__(self, answers: Any) -> None:
        super().__init__(answers, name="m")
        self.asked = asyncio.Event()
        self.go_on = asyncio.Event()

    async def complete(self, request: Any, *, on_text: Any = None) -> Any:
        self.asked.set()
        await self.go_on.wait()
        return await super().complete(request, on_text=on_text)


async def test_a_hundred_identical_requests_make_one_call(store: Any) -> None:
    model = SlowModel([ANSWER])
    async with ResponseCache(store) as cache, ResponseCache(store) as another:
        waiting = [asyncio.create_task(CachedModel(model, one).complete(question())) for one in [cache, another] * 5]
        shared = CachedModel(model, cache)
        waiting += [asyncio.create_task(shared.complete(question())) for _ in range(90)]
        await model.asked.wait()
        model.go_on.set()
        answers = await asyncio.gather(*waiting)
    stats = await cache.stats("m")
    assert len(model.requests) == 1
    assert sum(not answer.from_cache for answer in answers) == 1
    assert (stats.hits, stats.misses, stats.stored) == (99, 1, 1)
    assert (stats.saved_tokens, stats.saved_usd) == (99 * 15, 99 * 0.25)


async def test_a_hundred_identical_failures_make_one_call(store: Any) -> None:
    model = SlowModel([LlmFailed("no", service="m", operation="complete", retryable=True)])
    async with ResponseCache(store) as cache:
        shared = CachedModel(model, cache)
        waiting = [asyncio.create_task(shared.complete(question())) for _ in range(100)]
        await model.asked.wait()
        model.go_on.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, LlmFailed) for outcome in outcomes)
    assert len(model.requests) == 1


async def test_when_the_one_who_asked_is_cancelled_another_takes_over(store: Any) -> None:
    model = SlowModel([ANSWER])
    async with ResponseCache(store) as cache:
        shared = CachedModel(model, cache)
        first = asyncio.create_task(shared.complete(question()))
        await model.asked.wait()
        second = asyncio.create_task(shared.complete(question()))
        await asyncio.sleep(0)
        first.cancel()
        model.go_on.set()
        assert (await second).text == "yes"
        with pytest.raises(asyncio.CancelledError):
            await first


PROGRAM = """
import asyncio, sys
from redis.asyncio import Redis
from corral.adapters.llm.response_cache import ResponseCache

async def main():
    redis = Redis.from_url(sys.argv[1], decode_responses=True)
    async with ResponseCache(redis) as cache:
        async with cache.slot("m", "q") as slot:
            if not slot.hit:
                await redis.incr("calls")
                await redis.blpop("go-on", 30)
                if sys.argv[2] == "dies":
                    import os
                    os._exit(9)
                slot.keep("answer")
            print(slot.value)
    await redis.aclose()

asyncio.run(main())
"""


async def start(url: str, how: Any) -> Any:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, url, how, stdout=asyncio.subprocess.PIPE, cwd="src"
    )


async def until_called(redis: Any) -> None:
    async with asyncio.timeout(30):
        while await redis.get("calls") is None:
            await asyncio.sleep(0.02)


async def test_one_flight_per_key_across_processes(redis: Any, own_server: EmbeddedServer) -> None:
    processes = [await start(own_server.url, "lives") for _ in range(4)]
    await until_called(redis)
    await redis.rpush("go-on", "1")
    told = [await process.communicate() for process in processes]
    assert [out for out, _ in told] == [b"answer\n"] * 4
    assert int(await redis.get("calls")) == 1


async def test_a_flight_whose_process_died_is_taken_over(store: Any, redis: Any, own_server: EmbeddedServer) -> None:
    dying = await start(own_server.url, "dies")
    await until_called(redis)
    await redis.rpush("go-on", "1")
    assert await dying.wait() == 9
    [flight] = await redis.keys("llm-cache:flight:*")
    assert 0 < await redis.pttl(flight) <= 10_000
    await redis.pexpire(flight, 100)  # instead of waiting for it
    async with ResponseCache(store) as cache, cache.slot("m", "q") as slot:
        assert not slot.hit
        slot.keep("mine")


async def test_long_answers_are_compressed_and_whole(store: Any, redis: Any) -> None:
    text = "def add(a, b): return a + b\n" * 50_000
    async with ResponseCache(store) as cache:
        async with cache.slot("m", "q") as slot:
            slot.keep(text)
        async with cache.slot("m", "q") as slot:
            assert slot.value == text
    assert await redis.strlen(ResponseCache.key("m", "q")) < len(text) / 20


async def test_short_answers_are_plain_json_for_others_to_read(store: Any, redis: Any) -> None:
    async with ResponseCache(store) as cache, cache.slot("m", "q") as slot:
        slot.keep({"text": "yes"})
    assert json.loads(await redis.get(ResponseCache.key("m", "q")))["value"] == {"text": "yes"}


async def test_it_is_bounded_and_the_oldest_go_first(store: Any, redis: Any) -> None:
    async with ResponseCache(store, max_bytes=4000, max_value_bytes=2000, compress_over_bytes=10_000) as cache:
        for number in range(10):
            async with cache.slot("m", number) as slot:
                slot.keep("x" * 900)
        async with cache.slot("m", "large") as slot:
            slot.keep("x" * 3000)
    kept = [number for number in range(10) if await redis.exists(ResponseCache.key("m", number))]
    assert kept == [6, 7, 8, 9]
    assert not await redis.exists(ResponseCache.key("m", "large"))
    assert int(await redis.get("llm-cache:bytes")) <= 4000


async def test_what_expired_is_taken_off_the_books(store: Any, redis: Any) -> None:
    async with ResponseCache(store, ttl=timedelta(milliseconds=30)) as cache:
        async with cache.slot("m", 1) as slot:
            slot.keep("x" * 500)
        while await redis.exists(ResponseCache.key("m", 1)):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)
        async with cache.slot("m", 2) as slot:
            slot.keep("y")
    assert await redis.zcard("llm-cache:index") == 1
    assert int(await redis.get("llm-cache:bytes")) < 100


async def test_an_answer_as_long_as_the_expired_one_that_it_replaces_is_counted_once(store: Any, redis: Any) -> None:
    async with ResponseCache(store, ttl=timedelta(milliseconds=30)) as cache:
        for _ in range(3):
            async with cache.slot("m", 1) as slot:
                assert not slot.hit
                slot.keep("x" * 500)
            while await redis.exists(ResponseCache.key("m", 1)):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.02)
    [member] = await redis.zrange("llm-cache:index", 0, -1)
    assert int(await redis.get("llm-cache:bytes")) == int(member.partition(":")[0])


async def test_what_takes_an_expired_ones_place_is_not_removed_with_it(store: Any, redis: Any) -> None:
    key = ResponseCache.key("m", 1)
    for number in range(150):  # more than one answer clears away
        await redis.zadd("llm-cache:index", {f"1000:{number}:{key}": number})
    await redis.set("llm-cache:bytes", 150_000)
    async with ResponseCache(store, max_bytes=5_000) as cache:
        async with cache.slot("m", 1) as slot:
            slot.keep("new")
        async with cache.slot("m", 1) as slot:
            assert slot.hit


class Breaking:
    """A client whose server goes away on demand."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.away = False
        #: Commands that it is not there for, when it is there for others.
        self.away_for: set[str] = set()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        if self.away or args[0] in self.away_for:
            raise ConnectionError("away")
        return await self._client.execute_command(*args, **options)

    def pipeline(self, transaction: bool = False) -> Any:  # noqa: FBT001, FBT002 - redis-py's own signature
        pipe = self._client.pipeline(transaction=transaction)
        if self.away:
            pipe.execute = self._broken
        return pipe

    async def _broken(self) -> Any:
        raise ConnectionError("away")


async def test_an_answer_that_was_paid_for_is_given_also_when_it_can_not_be_kept(
    redis: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = Breaking(redis)
    model = SlowModel([ANSWER])
    async with ResponseCache(client) as cache:
        asking = asyncio.create_task(CachedModel(model, cache).complete(question()))
        await model.asked.wait()
        client.away = True
        model.go_on.set()
        assert await asking == ANSWER
        assert "could not be kept" in caplog.text
        await cache.close()  # nor does it keep anybody from closing
        assert "counters could not be written down" in caplog.text
        client.away = False
        stats = await cache.stats("m")
    assert (stats.misses, stats.stored) == (1, 0)


@pytest.mark.parametrize("away_for", [{"GET", "SET", "EVAL"}, {"SET"}])
async def test_while_redis_is_away_it_goes_on_without_the_cache(
    redis: Any, caplog: pytest.LogCaptureFixture, away_for: set[str]
) -> None:
    client = Breaking(redis)
    client.away_for = away_for
    model = ScriptedModel([ANSWER, ANSWER, ANSWER], name="m")
    async with ResponseCache(client) as cache:
        cached = CachedModel(model, cache)
        assert [await cached.complete(question()) for _ in range(2)] == [ANSWER, ANSWER]
        async with cache.slot("m", "q") as slot:
            assert not slot.hit
            slot.keep("lost")
        assert caplog.text.count("without the response cache") == 3
        client.away_for = set()
        assert not (await cached.complete(question())).from_cache
        assert (await cached.complete(question())).from_cache
        async with cache.slot("m", "q") as slot:
            assert not slot.hit
        stats = await cache.stats("m")
    assert (stats.away, stats.misses, stats.hits, stats.stored) == (3, 2, 1, 1)


async def test_a_look_up_that_redis_refuses_is_no_outage(store: Any, redis: Any) -> None:
    await redis.rpush(ResponseCache.key("m", question()), "no string")
    async with ResponseCache(store) as cache:
        with pytest.raises(Exception, match="WRONGTYPE"):
            await CachedModel(ScriptedModel([ANSWER], name="m"), cache).complete(question())


async def test_the_models_own_failure_is_told_and_not_the_caches(redis: Any) -> None:
    client = Breaking(redis)
    client.away = True
    async with ResponseCache(client) as cache:
        failure = LlmFailed("no", service="m", operation="complete", retryable=False, reason="rejected")
        with pytest.raises(LlmFailed) as caught:
            await CachedModel(ScriptedModel([failure], name="m"), cache).complete(question())
        assert caught.value.__context__ is None
        with pytest.raises(ZeroDivisionError) as divided:
            async with cache.slot("m", "q"):
                _ = 1 // 0
        assert divided.value.__context__ is None


async def test_tool_calls_are_kept_too(store: Any) -> None:
    call = ModelAnswer(tool_calls=(ToolCall(id="1", name="look", arguments="{}"),), finish=Finish.TOOL_CALLS)
    async with ResponseCache(store) as cache:
        cached = CachedModel(ScriptedModel([call], name="m"), cache)
        await cached.complete(question())
        assert (await cached.complete(question())).tool_calls == call.tool_calls


async def test_text_and_the_providers_form_come_back_as_they_were(store: Any) -> None:
    answer = ModelAnswer(text='ä "quoted"\n\ttext \U0001f600\x00', native='{"signed": "\u20ac"}\n2', model="m")
    async with ResponseCache(store) as cache:
        cached = CachedModel(ScriptedModel([answer], name="m"), cache)
        await cached.complete(question())
        assert await cached.complete(question()) == answer.model_copy(update={"from_cache": True})
        long = CachedModel(ScriptedModel([answer.model_copy(update={"text": "ab\n" * 500_000})], name="long"), cache)
        await long.complete(question())
        assert (await long.complete(question())).text == "ab\n" * 500_000


@pytest.mark.parametrize("stored", [b"", b"no answer", b"\x00not zlib", b'9 {"usage": 1}\n', b"x {}\n"])
async def test_what_can_not_be_read_is_asked_for_again(store: Any, redis: Any, stored: bytes) -> None:
    model = ScriptedModel([ANSWER], name="m")
    async with ResponseCache(store) as cache:
        await redis.set(ResponseCache.key("m", question()), stored)
        cached = CachedModel(model, cache)
        assert not (await cached.complete(question())).from_cache
        assert (await cached.complete(question())).from_cache
        assert (await cache.stats("m")).hits == 1
