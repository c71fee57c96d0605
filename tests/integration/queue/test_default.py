"""The module functions: the default Corral of a program, as the quick reference uses them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import corral
import corral.default
from corral import JobNotFound, JobPriority, JobState, JobType, PayloadInvalid
from corral.testing.server import EmbeddedServer


@pytest.fixture(autouse=True)
async def default(
    corral_server: EmbeddedServer, corral_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    monkeypatch.setenv("REDIS_URL", corral_server.url)
    monkeypatch.setenv("CORRAL_PREFIX", corral_prefix)
    monkeypatch.setattr(corral.default, "_made", None)
    yield
    await corral.disconnect_redis()


async def test_all_four_job_types_can_be_added_and_asked_for() -> None:
    jobs = [
        await corral.add_job(
            JobType.CODE_GENERATION,
            {"taskId": "123", "userId": "u", "prompt": "Build auth system", "projectId": "p"},
            priority=JobPriority.HIGH,
        ),
        await corral.add_job(
            JobType.TEST_EXECUTION,
            {
                "taskId": "123",
                "userId": "u",
                "projectId": "p",
                "testCommand": "npm test",
                "files": ["./src/auth.test.ts"],
            },
        ),
        await corral.add_job(
            JobType.PR_CREATION,
            {
                "taskId": "123",
                "userId": "u",
                "projectId": "p",
                "commitId": "abc123",
                "title": "Add authentication",
                "description": "Implements JWT auth",
                "sourceBranch": "feature/auth",
                "targetBranch": "main",
            },
        ),
        await corral.add_job(JobType.CODEBASE_INDEXING, {"projectId": "p", "userId": "u", "fullReindex": True}),
    ]
    for job, job_type, priority in zip(jobs, JobType, (1, 5, 5, 5), strict=False):
        status = await corral.get_job_status(job.job_type, job.id)
        assert (status.state, status.user_id, status.priority) == (JobState.PRIORITIZED, "u", priority)
        stats = await corral.get_queue_stats(job_type)
        assert (stats.job_type, stats.waiting, stats.total) == (str(job_type), 1, 1)


async def test_queues_are_paused_resumed_and_cleaned() -> None:
    await corral.pause_queue(JobType.CODE_GENERATION)
    assert (await corral.get_queue_stats(JobType.CODE_GENERATION)).paused
    await corral.resume_queue(JobType.CODE_GENERATION)
    assert not (await corral.get_queue_stats(JobType.CODE_GENERATION)).paused
    assert await corral.clean_queue(JobType.CODE_GENERATION, 86_400_000) == []


async def test_workers_start_and_stop_inside_a_program() -> None:
    workers = await corral.initialize_workers()
    assert set(workers.active) == {*map(str, JobType), "pipeline"}
    await corral.shutdown_queues()
    assert workers.stopped


async def test_mistakes_are_clear() -> None:
    with pytest.raises(PayloadInvalid, match="prompt: field required"):
        await corral.add_job(JobType.CODE_GENERATION, {"taskId": "1", "userId": "u", "projectId": "p"})
    with pytest.raises(JobNotFound):
        await corral.get_job_status(JobType.CODE_GENERATION, "nope")


async def test_redis_is_a_ready_client() -> None:
    await corral.redis.set("key", "value", ex=3600)
    assert await corral.redis.get("key") == "value"
    assert await corral.redis.incr("count-of-this-test") == 1
    assert await corral.redis.expire("count-of-this-test", 60)
