"""Jobs that one language adds and the other works."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from tests.interop.conftest import QUEUE, corral_worker
from tests.interop.driver import NodeQueue

from corral import Corral
from corral.queue.job import JobState


async def _started_in_order(theirs: NodeQueue, ids: list[str]) -> list[str]:
    """The jobs' ids by when they started."""
    started: dict[str, int] = {}
    for job_id in ids:
        await theirs.result(job_id)
        started[job_id] = (await theirs.job(job_id))["processedOn"]
    return sorted(ids, key=lambda job_id: started[job_id])


class TestPlain:
    async def test_node_adds_and_corral_works(self, corral: Corral, theirs: NodeQueue) -> None:
        job_id = await theirs.add({"url": "https://localhost/ä.png", "sizes": [1, 2.5, None], "deep": {"ok": True}})
        async with corral_worker(corral):
            outcome = await theirs.result(job_id)
        expected = {"by": "corral", "url": "https://localhost/ä.png", "sizes": [1, 2.5, None], "deep": {"ok": True}}
        assert outcome == {"value": expected}
        job = await theirs.job(job_id)
        assert job["state"] == "completed"
        assert job["returnvalue"] == expected
        assert (job["attemptsMade"], job["attemptsStarted"], job["stalledCounter"]) == (1, 1, 0)
        assert job["timestamp"] <= job["processedOn"] <= job["finishedOn"]
        assert job["processedBy"]

    async def test_corral_adds_and_node_works(self, corral: Corral, theirs: NodeQueue) -> None:
        job = await corral.add_job(QUEUE, {"url": "https://localhost/ä.png", "sizes": [1, 2.5, None]})
        shown = await theirs.job(job.id)
        assert shown["name"] == QUEUE
        assert shown["data"] == {"url": "https://localhost/ä.png", "sizes": [1, 2.5, None]}
        assert shown["opts"]["attempts"] == 3
        await theirs.worker()
        result = await corral.wait_for_result(job, timeout=timedelta(seconds=20))
        assert result == {"by": "node", "url": "https://localhost/ä.png", "sizes": [1, 2.5, None]}
        status = await corral.get_job_status(QUEUE, job.id)
        assert status.state is JobState.COMPLETED
        assert status.result == result
        assert status.attempts == 1
        assert status.created_at and status.started_at and status.finished_at  # noqa: PT018 - for the type checker
        assert status.created_at <= status.started_at <= status.finished_at

    async def test_each_counts_what_the_other_added(self, corral: Corral, theirs: NodeQueue) -> None:
        await theirs.add({})
        await theirs.add({}, priority=3)
        await theirs.add({}, delay=60_000)
        await corral.add_job(QUEUE, {}, priority=0)
        await corral.add_job(QUEUE, {}, delay=timedelta(minutes=1))
        stats = await corral.get_queue_stats(QUEUE)
        assert (stats.waiting, stats.prioritized, stats.delayed, stats.total) == (3, 1, 2, 5)
        counts = await theirs("counts")
        assert (counts["waiting"], counts["prioritized"], counts["delayed"]) == (2, 1, 2)

    async def test_one_id_is_one_job_in_both(self, corral: Corral, theirs: NodeQueue) -> None:
        first = await corral.add_job(QUEUE, {"n": 1}, priority=0, job_id="same")
        assert await theirs.add({"n": 2}, jobId="same") == first.id == "same"
        assert (await theirs.job("same"))["data"] == {"n": 1}
        assert (await corral.add_job(QUEUE, {"n": 3}, job_id="same")).id == "same"
        assert (await corral.get_queue_stats(QUEUE)).total == 1


class TestOrder:
    PRIORITIES = (10, 1, 2_097_151, 0, 5, 1)

    def _expected(self, ids: list[str]) -> list[str]:
        return [ids[i] for i in sorted(range(len(ids)), key=lambda i: (self.PRIORITIES[i], i))]

    async def test_node_gives_priorities_and_corral_keeps_them(self, corral: Corral, theirs: NodeQueue) -> None:
        ids = [await theirs.add({"act": "sleep", "ms": 4}, priority=priority) for priority in self.PRIORITIES]
        async with corral_worker(corral, concurrency=1):
            assert await _started_in_order(theirs, ids) == self._expected(ids)

    async def test_corral_gives_priorities_and_node_keeps_them(self, corral: Corral, theirs: NodeQueue) -> None:
        ids = [
            (await corral.add_job(QUEUE, {"act": "sleep", "ms": 4}, priority=priority)).id
            for priority in self.PRIORITIES
        ]
        await theirs.worker(concurrency=1)
        assert await _started_in_order(theirs, ids) == self._expected(ids)

    async def test_last_in_first_out(self, corral: Corral, theirs: NodeQueue) -> None:
        data: dict[str, Any] = {"act": "sleep", "ms": 4}
        ids = [
            await theirs.add(data),
            (await corral.add_job(QUEUE, data, priority=0, lifo=True)).id,
            await theirs.add(data, lifo=True),
            (await corral.add_job(QUEUE, data, priority=0)).id,
        ]
        await theirs.worker(concurrency=1)
        assert await _started_in_order(theirs, ids) == [ids[2], ids[1], ids[0], ids[3]]

    async def test_bulk_from_node(self, corral: Corral, theirs: NodeQueue) -> None:
        ids = await theirs("addBulk", jobs=[{"data": {"n": n}} for n in range(50)])
        async with corral_worker(corral):
            outcomes = [await theirs.result(job_id) for job_id in ids]
        assert outcomes == [{"value": {"by": "corral", "n": n}} for n in range(50)]

    async def test_bulk_from_corral(self, corral: Corral, theirs: NodeQueue) -> None:
        jobs = await corral.add_jobs(QUEUE, [{"n": n} for n in range(50)], priority=0)
        await theirs.worker(concurrency=5)
        results = [await corral.wait_for_result(job, timeout=timedelta(seconds=20)) for job in jobs]
        assert results == [{"by": "node", "n": n} for n in range(50)]


class TestDelayed:
    async def test_node_delays_and_corral_waits(self, corral: Corral, theirs: NodeQueue) -> None:
        async with corral_worker(corral):
            job_id = await theirs.add({}, delay=250)
            assert (await theirs.job(job_id))["state"] == "delayed"
            await theirs.result(job_id)
        job = await theirs.job(job_id)
        assert 250 <= job["processedOn"] - job["timestamp"] < 2_000

    async def test_corral_delays_and_node_waits(self, corral: Corral, theirs: NodeQueue) -> None:
        await theirs.worker()
        job = await corral.add_job(QUEUE, {}, delay=timedelta(milliseconds=250))
        shown = await theirs.job(job.id)
        assert (shown["state"], shown["delay"]) == ("delayed", 250)
        await corral.wait_for_result(job, timeout=timedelta(seconds=20))
        shown = await theirs.job(job.id)
        assert 250 <= shown["processedOn"] - shown["timestamp"] < 2_000

    async def test_each_promotes_the_others_job(self, corral: Corral, theirs: NodeQueue) -> None:
        from_node = await theirs.add({}, delay=600_000)
        from_corral = await corral.add_job(QUEUE, {}, delay=timedelta(minutes=10))
        await corral.promote_job(QUEUE, from_node)
        await theirs("promote", job=from_corral.id)
        async with corral_worker(corral):
            assert "value" in await theirs.result(from_node)
            assert "value" in await theirs.result(from_corral.id)


class TestNews:
    async def test_node_reads_progress_and_log_of_corral(self, corral: Corral, theirs: NodeQueue) -> None:
        progress = {"percent": 50, "stage": "resizing"}
        job_id = await theirs.add({"act": "report", "progress": progress, "lines": ["one", "zwei ä", "three"]})
        await theirs("listen")
        async with corral_worker(corral):
            assert (await theirs.event("progress", job_id))["data"] == progress
            await theirs.result(job_id)
        assert (await theirs.job(job_id))["progress"] == progress
        assert await theirs("logs", job=job_id) == {"logs": ["one", "zwei ä", "three"], "count": 3}

    async def test_corral_reads_progress_and_log_of_node(self, corral: Corral, theirs: NodeQueue) -> None:
        job = await corral.add_job(QUEUE, {"act": "report", "progress": 40, "lines": ["one", "zwei ä", "three"]})
        await theirs.worker()
        await corral.wait_for_result(job, timeout=timedelta(seconds=20))
        status = await corral.get_job_status(QUEUE, job.id)
        assert (status.progress, (await theirs.job(job.id))["progress"]) == (100, 40), "what is completed is at 100"
        logs = await corral.get_job_logs(QUEUE, job.id)
        assert (list(logs.lines), logs.total) == (["one", "zwei ä", "three"], 3)

    async def test_corral_reads_an_object_as_progress_of_node(self, corral: Corral, theirs: NodeQueue) -> None:
        progress = {"percent": 75, "stage": "writing"}
        job = await corral.add_job(QUEUE, {"act": "report-and-fail", "progress": progress}, attempts=1)
        await theirs.worker()
        await theirs.result(job.id)
        status = await corral.get_job_status(QUEUE, job.id)
        assert (status.progress, dict(status.progress_detail or {})) == (75, progress)
