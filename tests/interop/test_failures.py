"""Jobs that fail in one language, as the other sees them."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.interop.conftest import QUEUE, corral_worker
from tests.interop.driver import NodeQueue

from corral import Corral
from corral.errors import JobFailed
from corral.queue.job import JobState
from corral.queue.options import Backoff, BackoffKind

PATIENCE = timedelta(seconds=20)


class TestCorralFails:
    async def test_node_sees_reason_and_stack(self, corral: Corral, theirs: NodeQueue) -> None:
        job_id = await theirs.add({"act": "fail", "message": "no such picture: ä"})
        async with corral_worker(corral):
            assert await theirs.result(job_id) == {"error": "RuntimeError: no such picture: ä"}
        job = await theirs.job(job_id)
        assert (job["state"], job["attemptsMade"]) == ("failed", 1)
        assert job["failedReason"] == "RuntimeError: no such picture: ä"
        (stack,) = job["stacktrace"]
        assert "RuntimeError: no such picture: ä" in stack
        assert "handlers.py" in stack

    async def test_a_retry_comes_after_the_back_off_that_node_asked_for(
        self, corral: Corral, theirs: NodeQueue
    ) -> None:
        job_id = await theirs.add({"act": "fail-once"}, attempts=3, backoff={"type": "fixed", "delay": 200})
        await theirs("listen")
        async with corral_worker(corral):
            await theirs.event("delayed", job_id)
            assert await theirs.result(job_id) == {"value": {"by": "corral", "attempt": 2}}
        job = await theirs.job(job_id)
        assert (job["attemptsMade"], len(job["stacktrace"])) == (2, 1)
        assert job["finishedOn"] - job["timestamp"] >= 200

    async def test_all_attempts_are_used_then_it_fails(self, corral: Corral, theirs: NodeQueue) -> None:
        job_id = await theirs.add({"act": "fail"}, attempts=3, backoff={"type": "exponential", "delay": 10})
        async with corral_worker(corral):
            assert await theirs.result(job_id) == {"error": "RuntimeError: made to fail"}
        job = await theirs.job(job_id)
        assert (job["attemptsMade"], job["attemptsStarted"], len(job["stacktrace"])) == (3, 3, 3)

    async def test_what_forbids_a_retry_forbids_it(self, corral: Corral, theirs: NodeQueue) -> None:
        job_id = await theirs.add({"act": "unrecoverable", "message": "never"}, attempts=5)
        async with corral_worker(corral):
            assert await theirs.result(job_id) == {"error": "never"}
        assert (await theirs.job(job_id))["attemptsMade"] == 1

    async def test_node_retries_it(self, corral: Corral, theirs: NodeQueue) -> None:
        job_id = await theirs.add({"act": "fail"})
        async with corral_worker(corral):
            await theirs.result(job_id)
            await theirs("retry", job=job_id)
            await theirs.event("waiting", job_id)
            await theirs.result(job_id)
        assert (await theirs.job(job_id))["attemptsStarted"] == 2


class TestNodeFails:
    async def test_corral_sees_reason_and_stack(self, corral: Corral, theirs: NodeQueue) -> None:
        job = await corral.add_job(QUEUE, {"act": "fail", "message": "no such picture: ä"}, attempts=1)
        await theirs.worker()
        with pytest.raises(JobFailed, match="no such picture: ä") as failure:
            await corral.wait_for_result(job, timeout=PATIENCE)
        assert (failure.value.job_id, failure.value.reason) == (job.id, "no such picture: ä")
        status = await corral.get_job_status(QUEUE, job.id)
        assert status.state is JobState.FAILED
        assert status.error == "no such picture: ä"
        assert "driver.mjs" in status.stacktrace[0]

    @pytest.mark.parametrize("kind", list(BackoffKind))
    async def test_a_retry_comes_after_the_back_off_that_corral_asked_for(
        self, corral: Corral, theirs: NodeQueue, kind: BackoffKind
    ) -> None:
        backoff = Backoff(timedelta(milliseconds=200), kind)
        job = await corral.add_job(QUEUE, {"act": "fail-once"}, attempts=2, backoff=backoff)
        await theirs.worker()
        assert await corral.wait_for_result(job, timeout=PATIENCE) == {"by": "node", "attempt": 2}
        shown = await theirs.job(job.id)
        assert shown["finishedOn"] - shown["timestamp"] >= 200
        assert (await corral.get_job_status(QUEUE, job.id)).attempts == 2

    async def test_what_forbids_a_retry_forbids_it(self, corral: Corral, theirs: NodeQueue) -> None:
        job = await corral.add_job(QUEUE, {"act": "unrecoverable", "message": "never"}, attempts=5)
        await theirs.worker()
        with pytest.raises(JobFailed, match="never"):
            await corral.wait_for_result(job, timeout=PATIENCE)
        assert (await corral.get_job_status(QUEUE, job.id)).attempts == 1

    async def test_one_attempt_in_each_language(self, corral: Corral, theirs: NodeQueue) -> None:
        """The count of attempts goes on where the other language left it."""
        job = await corral.add_job(
            QUEUE, {"act": "fail-once"}, attempts=2, backoff=Backoff(timedelta(milliseconds=300), BackoffKind.FIXED)
        )
        await theirs("listen")
        worker = await theirs.worker()
        await theirs.event("delayed", job.id)
        await theirs("stopWorker", worker=worker)
        async with corral_worker(corral):
            assert await corral.wait_for_result(job, timeout=PATIENCE) == {"by": "corral", "attempt": 2}

    async def test_corral_retries_it(self, corral: Corral, theirs: NodeQueue) -> None:
        job = await corral.add_job(QUEUE, {"act": "unrecoverable"})
        worker = await theirs.worker()
        with pytest.raises(JobFailed):
            await corral.wait_for_result(job, timeout=PATIENCE)
        await theirs("stopWorker", worker=worker)
        await corral.retry_job(QUEUE, job.id)
        shown = await theirs.job(job.id)
        assert (shown["state"], shown["attemptsMade"], shown.get("failedReason")) == ("prioritized", 0, None)
