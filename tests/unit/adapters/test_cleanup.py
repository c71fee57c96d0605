from __future__ import annotations

import asyncio
import contextlib

import pytest

from corral.adapters.cleanup import heed_cancellation, see_through


async def test_work_is_seen_through_however_often_its_caller_is_cancelled() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    done = []

    async def work() -> str:
        begun.set()
        await go_on.wait()
        done.append("work")
        return "result"

    async def caller() -> None:
        try:
            await see_through(work())
        finally:
            done.append("caller")

    task = asyncio.create_task(caller())
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["work", "caller"]
    assert await see_through(work()) == "result"


async def test_its_failure_is_raised_and_gives_way_to_a_cancellation() -> None:
    begun = asyncio.Event()

    async def fail() -> None:
        begun.set()
        await asyncio.sleep(0)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await see_through(fail())
    begun.clear()
    task = asyncio.create_task(see_through(fail()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_swallowed_cancellation_is_heeded() -> None:
    heed_cancellation()  # nobody was cancelled

    async def careless() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        heed_cancellation()

    task = asyncio.create_task(careless())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
