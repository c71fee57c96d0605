"""What a caller of ``Pipe.send`` waits for, and what is told of a server that refuses."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from corral.errors import StoreUnavailable
from corral.wire.pipe import ConnectionLost, Outage, _Answer

told: contextvars.ContextVar[str] = contextvars.ContextVar("told")


def _answer() -> _Answer:
    return _Answer(loop=asyncio.get_running_loop())


def _deliver(answer: _Answer, reply: object) -> asyncio.Future[list[str]]:
    """Set the result as a connection does: from a callback of the loop. Returns what had happened when it was back."""
    loop = asyncio.get_running_loop()
    seen: asyncio.Future[list[str]] = loop.create_future()

    def come_in() -> None:
        answer.set_result(reply)
        seen.set_result(list(_log))

    loop.call_soon(come_in)
    return seen


_log: list[str] = []


@pytest.fixture(autouse=True)
def _clean_log() -> None:
    _log.clear()


async def _wait(answer: asyncio.Future[object], name: str) -> object:
    told.set(name)
    reply = await answer
    _log.append(f"{told.get()} got {reply}")
    return reply


async def test_a_waiting_task_goes_on_in_the_turn_that_reads_the_answer_and_in_its_own_context() -> None:
    answer = _answer()
    task = asyncio.create_task(_wait(answer, "first"))
    await asyncio.sleep(0)
    assert await _deliver(answer, 1) == ["first got 1"]
    assert await task == 1
    assert told.get("nothing") == "nothing"


async def test_an_answer_that_nobody_waits_for_yet_is_kept() -> None:
    answer = _answer()
    await _deliver(answer, 2)
    assert await answer == 2


async def test_several_may_wait() -> None:
    answer = _answer()
    tasks = [asyncio.create_task(_wait(answer, name)) for name in ("a", "b")]
    shielded = asyncio.shield(answer)
    await asyncio.sleep(0)
    await _deliver(answer, 3)
    assert await asyncio.gather(*tasks, shielded, asyncio.wait_for(answer, 1)) == [3, 3, 3, 3]


async def test_a_cancelled_task_leaves_an_answer_that_may_still_come() -> None:
    answer = _answer()
    task = asyncio.create_task(_wait(answer, "gone"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert answer.done()
    assert _log == []


async def test_a_time_out_ends_the_wait() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await _answer()


async def test_a_lost_connection_reaches_the_waiter() -> None:
    answer = _answer()
    task = asyncio.create_task(_wait(answer, "lost"))
    await asyncio.sleep(0)
    answer.set_exception(ConnectionLost("gone"))
    with pytest.raises(ConnectionLost, match="gone"):
        await task


async def test_what_the_waiter_raises_stays_in_its_task() -> None:
    answer = _answer()

    async def fail() -> None:
        await answer
        raise ValueError("mine")

    task = asyncio.create_task(fail())
    await asyncio.sleep(0)
    await _deliver(answer, 4)
    with pytest.raises(ValueError, match="mine"):
        await task


def test_refusals_that_take_turns_are_told_once_each(caplog: pytest.LogCaptureFixture) -> None:
    outage = Outage()
    for reason in ("full", "busy", "full", "busy"):
        outage.refused(StoreUnavailable(f"Redis is {reason}."))
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == ["Redis is full", "Redis is busy"]
