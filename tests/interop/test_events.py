"""Events and dashboards: what Node's programs read of what Corral wrote, and the other way round."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from tests.interop.conftest import QUEUE, corral_worker
from tests.interop.driver import NodeDriver, NodeQueue

from corral import Corral
from corral.queue.events import QueueEvent

PATIENCE = timedelta(seconds=20)


class TestNodeReads:
    async def test_the_whole_life_of_a_job(self, corral: Corral, theirs: NodeQueue) -> None:
        await theirs("listen")
        job = await corral.add_job(QUEUE, {"act": "fail-once"}, priority=0, attempts=2)
        async with corral_worker(corral):
            done = await theirs.event("completed", job.id)
        assert done["returnvalue"] == {"by": "corral", "attempt": 2}
        seen = [one["event"] for one in await theirs("eventsSeen") if one["job"] == job.id]
        assert seen == ["added", "waiting", "active", "delayed", "waiting", "active", "completed"]

    async def test_a_final_failure(self, corral: Corral, theirs: NodeQueue) -> None:
        await theirs("listen")
        job = await corral.add_job(QUEUE, {"act": "fail", "message": "gone"}, attempts=1)
        async with corral_worker(corral):
            assert (await theirs.event("failed", job.id))["failedReason"] == "RuntimeError: gone"

    async def test_pause_resume_removal_and_an_empty_queue(self, corral: Corral, theirs: NodeQueue) -> None:
        await theirs("listen")
        await corral.pause_queue(QUEUE)
        await theirs.queue_event("paused")
        job = await corral.add_job(QUEUE, {})
        await corral.remove_job(QUEUE, job.id)
        await theirs.event("removed", job.id)
        await corral.resume_queue(QUEUE)
        await theirs.queue_event("resumed")
        last = await corral.add_job(QUEUE, {})
        async with corral_worker(corral):
            await theirs.event("completed", last.id)
            await theirs.queue_event("drained")

    async def test_corrals_worker_is_listed(self, corral: Corral, theirs: NodeQueue) -> None:
        async with corral_worker(corral):
            assert len(await theirs("workers")) == 1
        assert await theirs("workers") == []


class TestCorralReads:
    async def _until(self, corral: Corral, name: str, job_id: str) -> list[QueueEvent]:
        found: list[QueueEvent] = []
        async with asyncio.timeout(20):
            async for event in corral.events(QUEUE, after="0-0"):
                if event.job_id == job_id:
                    found.append(event)
                    if event.name == name:
                        break
        return found

    async def test_the_whole_life_of_a_job(self, corral: Corral, theirs: NodeQueue) -> None:
        job_id = await theirs.add({"act": "fail-once"}, attempts=2)
        await theirs.worker()
        seen = await self._until(corral, "completed", job_id)
        # Without a back-off, Node's worker puts the job back at once.
        assert [event.name for event in seen] == ["added", "waiting", "active", "waiting", "active", "completed"]
        assert seen[-1].fields["returnvalue"] == '{"by":"node","attempt":2}'

    async def test_progress_and_failure(self, corral: Corral, theirs: NodeQueue) -> None:
        job_id = await theirs.add({"act": "report", "progress": 30, "lines": []})
        failing = await theirs.add({"act": "fail", "message": "gone"})
        await theirs.worker()
        seen = {event.name: event for event in await self._until(corral, "completed", job_id)}
        assert seen["progress"].fields["data"] == "30"
        assert (await self._until(corral, "failed", failing))[-1].fields["failedReason"] == "gone"

    async def test_nodes_worker_is_listed(self, corral: Corral, theirs: NodeQueue) -> None:
        assert await corral.list_workers(QUEUE) == []
        worker = await theirs.worker(name="elsewhere")
        (found,) = await corral.list_workers(QUEUE)
        assert found.name == "elsewhere"
        await theirs("stopWorker", worker=worker)


class TestBoard:
    async def _ask(self, node: NodeDriver, theirs: NodeQueue, route: str, **arguments: Any) -> dict[str, Any]:
        answer = await node.call("board", prefix=theirs.prefix, queues=[QUEUE], route=route, **arguments)
        assert answer.get("status", 200) in {200, 204}, answer
        return dict(answer.get("body") or {})

    async def _jobs(self, node: NodeDriver, theirs: NodeQueue, status: str) -> dict[str, Any]:
        query = {"activeQueue": QUEUE, "status": status, "page": "1", "jobsPerPage": "10"}
        (queue,) = (await self._ask(node, theirs, "get /api/queues", query=query))["queues"]
        return dict(queue)

    async def test_it_shows_queues_and_jobs_that_corral_wrote(
        self, corral: Corral, node: NodeDriver, theirs: NodeQueue
    ) -> None:
        good = await corral.add_job(QUEUE, {"act": "report", "progress": 80, "lines": ["hello"]}, priority=0)
        bad = await corral.add_job(QUEUE, {"act": "fail", "message": "gone"}, attempts=1)
        later = await corral.add_job(QUEUE, {"n": 1}, delay=timedelta(hours=1))
        async with corral_worker(corral):
            await theirs.result(good.id)
            await theirs.result(bad.id)
            queue = await self._jobs(node, theirs, "completed")
            assert queue["hasWorkers"] in {True, None}
        assert queue["name"] == QUEUE
        assert (queue["counts"]["completed"], queue["counts"]["failed"], queue["counts"]["delayed"]) == (1, 1, 1)
        (job,) = queue["jobs"]
        assert (job["id"], job["progress"], job["returnValue"]) == (good.id, 80, {"by": "corral"})
        (job,) = (await self._jobs(node, theirs, "failed"))["jobs"]
        assert (job["id"], job["failedReason"], job["isFailed"]) == (bad.id, "RuntimeError: gone", True)
        assert "RuntimeError" in job["stacktrace"][0]
        (job,) = (await self._jobs(node, theirs, "delayed"))["jobs"]
        assert (job["id"], job["delay"]) == (later.id, 3_600_000)

    async def test_it_shows_one_job_and_its_log(self, corral: Corral, node: NodeDriver, theirs: NodeQueue) -> None:
        job = await corral.add_job(QUEUE, {"act": "report", "progress": 80, "lines": ["hello", "there"]})
        async with corral_worker(corral):
            await theirs.result(job.id)
        params = {"queueName": QUEUE, "jobId": job.id}
        shown = await self._ask(node, theirs, "get /api/queues/:queueName/:jobId", params=params)
        assert (shown["status"], shown["job"]["id"]) == ("completed", job.id)
        answer = await node.call(
            "board", prefix=theirs.prefix, queues=[QUEUE], route="get /api/queues/:queueName/:jobId/logs", params=params
        )
        assert answer["body"] == ["hello", "there"]

    async def test_its_buttons_work_on_corrals_jobs(self, corral: Corral, node: NodeDriver, theirs: NodeQueue) -> None:
        job = await corral.add_job(QUEUE, {"act": "unrecoverable"})
        async with corral_worker(corral):
            await theirs.result(job.id)
        params = {"queueName": QUEUE, "jobId": job.id}
        await self._ask(
            node, theirs, "put /api/queues/:queueName/:jobId/retry", params=params, body={"status": "failed"}
        )
        assert (await corral.get_queue_stats(QUEUE)).waiting == 1
        await self._ask(node, theirs, "put /api/queues/:queueName/pause", params={"queueName": QUEUE})
        assert (await corral.get_queue_stats(QUEUE)).paused
