"""What jobs that run at the same time may spend together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from corral.adapters.llm import budgets as module
from corral.adapters.llm.budgets import Allowance, Budgets, BudgetUsedUp, Reservation, most_of
from corral.adapters.llm.port import Message, ModelRequest, ModelTraits, Role, Tool, ToolCall, Usage
from corral.testing import EmbeddedCluster, EmbeddedServer

USAGE = Usage(input_tokens=40, output_tokens=20, usd=0.4)
FREE = Allowance()


async def spend(budgets: Budgets, job: str, user: str, *, allowed: Allowance = FREE, usage: Usage = USAGE) -> None:
    async with budgets.reserve(job_id=job, user_id=user, job=allowed, most=usage) as room:
        await room.settle(usage)


async def test_they_count_per_job_user_and_day(store: Any, redis: Any) -> None:
    budgets = Budgets(store, user=Allowance(tokens=100), day=Allowance(usd=1.0))
    job = Allowance(tokens=1000)
    await spend(budgets, "j1", "u1", allowed=job)
    await spend(budgets, "j2", "u1", allowed=job)
    with pytest.raises(BudgetUsedUp, match=r"^the user's budget of 100 tokens is used up \(120\)$"):
        await spend(budgets, "j3", "u1", allowed=job)
    await spend(budgets, "j4", "u2", allowed=job)
    with pytest.raises(BudgetUsedUp) as exceeded:
        await spend(budgets, "j5", "u3", allowed=job)
    assert (exceeded.value.exceeded.scope, exceeded.value.exceeded.unit) == ("day", "usd")
    with pytest.raises(BudgetUsedUp) as exceeded:
        await spend(budgets, "j1", "u9", allowed=Allowance(tokens=60))
    assert exceeded.value.exceeded.scope == "job"
    keys = await redis.keys("corral:llm-budget:*")
    assert len(keys) == 6, "three jobs, two users, a day, and nothing that is held"
    assert all([await redis.ttl(key) > 0 for key in keys])
    other = Budgets(store, prefix="corral:other", user=Allowance(tokens=1))
    await spend(other, "j1", "u1", allowed=Allowance(tokens=1))


class Call:
    """A call of a job that is waiting for its budget or running."""

    def __init__(self, budgets: Budgets, job: str, *, user: str = "u", most: Usage = USAGE) -> None:
        self.running: asyncio.Future[Reservation] = asyncio.get_running_loop().create_future()
        self.waits = asyncio.Event()
        self._end: asyncio.Future[Usage | None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run(budgets, job, user, most))

    async def _run(self, budgets: Budgets, job: str, user: str, most: Usage) -> None:
        async def on_wait(_: str) -> None:
            self.waits.set()

        async with budgets.reserve(job_id=job, user_id=user, job=FREE, most=most, on_wait=on_wait) as room:
            self.running.set_result(room)
            usage = await self._end
            if usage is not None:
                await room.settle(usage)

    async def end(self, usage: Usage | None) -> None:
        """Let it end: with what it took, or as a failure."""
        self._end.set_result(usage)
        await self._task

    async def outcome(self) -> None:
        await self._task

    async def cancel(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


@pytest.mark.parametrize(("user", "day"), [(Allowance(tokens=100), FREE), (FREE, Allowance(usd=0.7))])
async def test_together_they_spend_no_more_than_one_after_the_other(
    store: Any, user: Allowance, day: Allowance
) -> None:
    """Without holding what runs, all ten would pass the check before the first is counted."""
    budgets = Budgets(store, user=user, day=day)
    allowed = 0

    async def work(number: int) -> None:
        nonlocal allowed
        async with budgets.reserve(job_id=f"j{number}", user_id="u", job=FREE, most=USAGE) as room:
            allowed += 1
            await asyncio.sleep(0)  # the others have their turn while this one runs
            await room.settle(USAGE)

    done = await asyncio.gather(*(work(number) for number in range(10)), return_exceptions=True)
    assert [type(one) for one in done].count(BudgetUsedUp) == 8
    assert allowed == 2, "the second passes the budget, as it would alone"


async def test_one_that_finds_no_room_waits_for_what_the_others_really_take(store: Any) -> None:
    budgets = Budgets(store, user=Allowance(tokens=100))
    large = Usage(input_tokens=500)
    alone = Call(budgets, "j1", most=large)
    await alone.running  # larger than the whole budget, and allowed as nothing else runs
    second = Call(budgets, "j2", most=large)
    other_user = Call(budgets, "j3", user="other", most=large)
    await second.waits.wait()
    await other_user.running
    assert not second.running.done()
    await alone.end(Usage(input_tokens=99))
    await second.running
    await second.end(Usage(input_tokens=1))
    await other_user.end(None)
    with pytest.raises(BudgetUsedUp, match="the user's budget of 100 tokens"):
        await Call(budgets, "j4").outcome()


async def test_what_waits_is_refused_when_the_others_took_all(store: Any) -> None:
    budgets = Budgets(store, day=Allowance(usd=1.0))
    first = Call(budgets, "j1", most=Usage(usd=2.0))
    await first.running
    second = Call(budgets, "j2")
    await second.waits.wait()
    await first.end(Usage(usd=1.5))
    with pytest.raises(BudgetUsedUp, match=r"the day's budget of 1 usd is used up \(1.5\)"):
        await second.outcome()


@pytest.mark.parametrize("how", ["fails", "cancelled"])
async def test_a_call_that_comes_to_nothing_holds_nothing(store: Any, redis: Any, how: str) -> None:
    budgets = Budgets(store, user=Allowance(tokens=10))
    first = Call(budgets, "j1")
    await first.running
    assert await redis.keys("*:held:*") != []
    await (first.end(None) if how == "fails" else first.cancel())
    assert await redis.keys("*") == []


async def test_what_a_killed_worker_held_is_its_next_attempts_and_runs_out(
    store: Any, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_HELD_MS", 50)
    monkeypatch.setattr(module, "_RENEWAL_S", 3600.0)
    budgets = Budgets(store, user=Allowance(tokens=10))
    killed = Call(budgets, "j1")
    await killed.running
    again = Call(budgets, "j1")
    await again.running  # of the same job: at once
    other = Call(budgets, "j2")
    await other.running  # of another: when nobody renews it
    await again.end(Usage(input_tokens=1))
    (held,) = await redis.keys("*:held:*")
    assert list(await redis.hgetall(held)) == ["j2"]
    await killed.end(None)
    assert list(await redis.hgetall(held)) == ["j2"]
    await other.end(None)


async def test_a_long_call_is_held_for_as_long_as_it_runs(
    store: Any, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RENEWAL_S", 0.01)
    budgets = Budgets(store, user=Allowance(tokens=10), day=Allowance(tokens=10))
    call = Call(budgets, "j")
    await call.running
    keys = await redis.keys("*:held:*")
    assert len(keys) == 2
    for key in keys:
        before = await redis.hget(key, "j")
        async with asyncio.timeout(10):
            while before == await redis.hget(key, "j"):
                await asyncio.sleep(0.005)
        await redis.delete(key)  # as if it had run out while the worker was frozen
        async with asyncio.timeout(10):
            while not await redis.exists(key):
                await asyncio.sleep(0.005)
    await call.end(USAGE)
    assert await redis.keys("*:held:*") == []


async def test_what_is_sent_twice_is_counted_once(store: Any, redis: Any) -> None:
    budgets = Budgets(store)
    async with budgets.reserve(job_id="j", user_id="u", job=FREE, most=USAGE) as room:
        for _ in range(2):
            await room.settle(USAGE)
    assert await redis.hget("corral:llm-budget:job:j", "tokens") == "60"
    (day,) = await redis.keys("corral:llm-budget:day:*")
    assert await redis.hgetall(day) == {"tokens": "60", "usd": "0.4"}


async def test_a_call_over_midnight_is_paid_from_the_day_that_allowed_it(store: Any, redis: Any) -> None:
    clock = datetime(2026, 3, 1, 23, 59, tzinfo=UTC)
    budgets = Budgets(store, user=Allowance(tokens=1000), now=lambda: clock)
    async with budgets.reserve(job_id="j", user_id="u", job=FREE, most=USAGE) as room:
        clock = datetime(2026, 3, 2, 0, 1, tzinfo=UTC)
        await room.settle(USAGE)
    assert await redis.keys("*:day:*") == ["corral:llm-budget:day:2026-03-01"]


async def test_what_was_paid_for_is_counted_when_redis_is_back() -> None:
    with EmbeddedServer() as server:
        async with connected(server) as redis:
            budgets = Budgets(redis, user=Allowance(tokens=100))
            async with budgets.reserve(job_id="j", user_id="u", job=FREE, most=USAGE) as room:
                server.kill()
                settling = asyncio.create_task(room.settle(USAGE))
                with pytest.raises(Exception, match=r"refused|losed|onnect"):
                    await redis.ping()
                assert not settling.done()
                server.start()
                await settling
            assert await redis.hget("corral:llm-budget:job:j", "tokens") == "60"


@contextlib.asynccontextmanager
async def connected(server: EmbeddedServer) -> AsyncIterator[Any]:
    from redis.asyncio import Redis  # noqa: PLC0415 - not every test here has a client of its own

    client = Redis.from_url(server.url, decode_responses=True)
    yield client
    await client.aclose()


async def test_on_a_cluster_all_keys_are_in_one_place() -> None:
    from corral import Corral  # noqa: PLC0415 - as above

    with EmbeddedCluster() as cluster:
        async with Corral(cluster.url, prefix="{bull}") as corral:
            budgets = Budgets(corral.redis, prefix=corral.namespace, user=Allowance(tokens=100))
            for user in ("ada", "{bob}"):
                for job in ("1", "2"):
                    await spend(budgets, job, user)
                with pytest.raises(BudgetUsedUp):
                    await spend(budgets, "3", user)


def test_the_most_that_a_call_may_take() -> None:
    asked = ModelRequest(
        system="ä" * 10,
        messages=(
            Message(role=Role.USER, text="x" * 100),
            Message(role=Role.ASSISTANT, text="y" * 1000, native="z" * 50),
            Message(role=Role.ASSISTANT, tool_calls=(ToolCall(id="1", name="n", arguments="a" * 9),)),
        ),
        tools=(Tool(name="t", description="d" * 5, parameters="p" * 4),),
        max_tokens=300,
    )
    around = 16 * 5
    most = most_of(asked, ModelTraits(usd_per_input_token=0.001, usd_per_output_token=0.01))
    assert (most.input_tokens, most.output_tokens) == (20 + 100 + 50 + 10 + 10 + around, 300)
    assert most.usd == pytest.approx(0.27 + 3.0)
    assert most_of(asked, ModelTraits()).usd is None
    small = most_of(asked, ModelTraits(context_tokens=400))
    assert (small.input_tokens, small.output_tokens) == (100, 300)
    with_schema = asked.model_copy(update={"output_schema": {"type": "object"}})
    assert most_of(with_schema, ModelTraits()).input_tokens == most.input_tokens + 16 + len('{"type": "object"}')
