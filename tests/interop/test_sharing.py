"""Users take turns when Node's worker, which knows nothing of them, does the work."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from tests.interop.conftest import QUEUE
from tests.interop.driver import NodeQueue

from corral import Corral, PerUser, TooManyJobs
from corral.testing.server import EmbeddedServer


@asynccontextmanager
async def _shared(server: EmbeddedServer, theirs: NodeQueue, rules: PerUser) -> AsyncIterator[Corral]:
    async with Corral(redis_url=server.url, prefix=theirs.prefix, job_types=()) as corral:
        corral.declare(QUEUE, per_user=rules)
        yield corral


async def _events(theirs: NodeQueue, enough: Callable[[Counter[str]], bool]) -> list[tuple[str, str]]:
    """What Node's QueueEvents saw, as soon as there is enough of it."""
    async with asyncio.timeout(30):
        while True:
            seen = [(one["event"], str(one["job"])) for one in await theirs("eventsSeen")]
            if enough(Counter(event for event, _ in seen)):
                return seen
            await asyncio.sleep(0.02)  # the condition is looked at again; its arrival is what is waited for


@pytest.mark.parametrize("lanes", [1, 5])
async def test_a_thousand_jobs_of_one_user_let_anothers_pass(
    interop_server: EmbeddedServer, theirs: NodeQueue, lanes: int
) -> None:
    async with _shared(interop_server, theirs, PerUser()) as corral:
        await theirs("listen")
        await corral.add_jobs(QUEUE, [{"userId": "many"}] * 1_000)
        early = [job.id for job in await corral.add_jobs(QUEUE, [{"userId": "few"}] * 2)]
        await theirs.worker(concurrency=lanes)
        await _events(theirs, lambda seen: seen["completed"] >= 100)
        late = await corral.add_job(QUEUE, {"userId": "few"})
        seen = await _events(theirs, lambda seen: seen["completed"] >= 1_003)
        started = [job_id for event, job_id in seen if event == "active"]
        assert started.index(early[0]) <= 2 * lanes
        assert started.index(early[1]) <= started.index(early[0]) + 2 * lanes
        added = seen.index(("waiting", late.id))
        begun = sum(1 for event, _ in seen[added : seen.index(("active", late.id))] if event == "active")
        assert begun <= 2 * lanes
        assert (await corral.get_queue_stats(QUEUE)).completed == 1_003


async def test_no_more_of_a_users_jobs_run_in_node_than_may(interop_server: EmbeddedServer, theirs: NodeQueue) -> None:
    async with _shared(interop_server, theirs, PerUser(max_active=2)) as corral:
        await theirs("listen")
        payloads: list[dict[str, Any]] = [{"act": "sleep", "ms": 20, "userId": user} for user in "aaaaaaaaaabbb"]
        owners = {
            job.id: payload["userId"]
            for job, payload in zip(await corral.add_jobs(QUEUE, payloads), payloads, strict=True)
        }
        await corral.start_ushers()
        await theirs.worker(concurrency=8)
        seen = await _events(theirs, lambda seen: seen["completed"] >= len(owners))
        running: Counter[str] = Counter()
        for event, job_id in seen:
            if event in {"active", "completed"}:
                running[owners[job_id]] += 1 if event == "active" else -1
                assert running[owners[job_id]] <= 2
        assert running.total() == 0


async def test_room_comes_back_when_node_has_started_a_job(interop_server: EmbeddedServer, theirs: NodeQueue) -> None:
    async with _shared(interop_server, theirs, PerUser(max_waiting=3)) as corral:
        jobs = await corral.add_jobs(QUEUE, [{"userId": "a"}] * 3)
        with pytest.raises(TooManyJobs):
            await corral.add_job(QUEUE, {"userId": "a"})
        await theirs.worker()
        for job in jobs:
            await corral.wait_for_result(job, timeout=timedelta(seconds=20))
        await corral.add_job(QUEUE, {"userId": "a"})


async def test_jobs_that_node_adds_have_their_turn(interop_server: EmbeddedServer, theirs: NodeQueue) -> None:
    async with _shared(interop_server, theirs, PerUser()) as corral:
        for n in range(30):
            await theirs.add({"userId": "node", "n": n}, **({"priority": 3} if n % 2 else {}))
        await corral.start_ushers()
        async with asyncio.timeout(10):
            while await corral.execute_command("LLEN", f"{theirs.prefix}:{QUEUE}:wait"):
                await asyncio.sleep(0.01)  # as above: the usher's first round is what is waited for
        ours = await corral.add_job(QUEUE, {"userId": "python"})
        await theirs("listen")
        await theirs.worker(concurrency=1)
        seen = await _events(theirs, lambda seen: seen["completed"] >= 31)
        assert [job_id for event, job_id in seen if event == "active"].index(ours.id) <= 2
