"""``run_until_idle`` works off everything, and says what it could not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from corral import Backoff, Corral, Job, JobState, Settings
from corral.testing import EmbeddedServer, run_until_idle
from corral.testing.pytest_plugin import corral_prefix

__all__ = ["corral_prefix"]


@pytest.fixture
async def corral(corral_server: EmbeddedServer, corral_prefix: str) -> AsyncIterator[Corral]:
    settings = Settings(_env_file=None, redis_url=corral_server.url, prefix=corral_prefix)
    async with Corral(settings=settings, job_types=()) as corral:
        yield corral


async def test_jobs_that_handlers_add_are_worked_off_too(corral: Corral) -> None:
    seen: list[int] = []

    @corral.handler("count-down")
    async def count_down(job: Job[int]) -> None:
        seen.append(job.data)
        if job.data:
            await corral.add_job("count-down", job.data - 1)

    await corral.add_job("count-down", 3)
    await run_until_idle(corral)
    assert seen == [3, 2, 1, 0]
    assert await corral.list_workers("count-down") == []
    await corral.add_job("count-down", 0)
    await run_until_idle(corral, ["count-down"])
    assert seen == [3, 2, 1, 0, 0]


async def test_back_offs_need_not_be_waited_for(corral: Corral) -> None:
    @corral.handler("stubborn", attempts=3, backoff=Backoff(timedelta(hours=1)))
    async def stubborn(job: Job[None]) -> int:
        if job.attempt < 3:
            raise RuntimeError("not yet")
        return job.attempt

    job = await corral.add_job("stubborn", None)
    await run_until_idle(corral)
    assert (await corral.get_job_status("stubborn", job.id)).state is JobState.DELAYED
    await run_until_idle(corral, promote_delayed=True)
    assert (await corral.get_job_status("stubborn", job.id)).result == 3


async def test_schedules_and_paused_queues_are_left_alone(corral: Corral) -> None:
    runs: list[str] = []

    @corral.handler("tick")
    async def tick(job: Job[None]) -> None:
        runs.append(job.id)

    await corral.add_schedule("tick", "hourly", every=timedelta(hours=1), data=None, start_at=None)
    await run_until_idle(corral, promote_delayed=True)
    before = len(runs)
    await corral.pause_queue("tick")
    await corral.add_job("tick", None)
    await run_until_idle(corral, promote_delayed=True)
    assert len(runs) == before <= 1


async def test_what_does_not_end_is_said(corral: Corral) -> None:
    @corral.handler("endless")
    async def endless(job: Job[None]) -> None:
        await corral.add_job("endless", None)

    await corral.add_job("endless", None)
    with pytest.raises(TimeoutError, match=r"not idle after 0.2 s: endless: \d+ waiting"):
        await run_until_idle(corral, timeout=timedelta(seconds=0.2))
