"""Whole jobs on a worker of a ``Corral``: a real Redis, a real repository, and a provider's protocol over HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.integration.code_generation.test_real_repository import EDIT, FINISH, write_repository
from tests.support.openai_server import OpenAiServer, Reply

from corral import Corral, JobType
from corral.jobs.code_generation.result import CodeGenerationResult, EndReason
from corral.projects import Project
from corral.settings import Settings
from corral.testing import EmbeddedServer

_CALLS = [(call.name, call.arguments) for answer in (EDIT, FINISH) for call in answer.tool_calls]
EDITS, FINISHES = (Reply(pieces=(), tool_calls=(call,), finish="tool_calls") for call in _CALLS)
EACH = 18
"""Tokens that the server says each answer took."""


@dataclass
class Platform:
    """A worker whose model is a server on the loopback."""

    corral: Corral
    models: OpenAiServer

    async def add(self, task: str, *, user: str = "u", prompt: str = "Mend add in calc.py", **options: Any) -> str:
        payload = {"taskId": task, "userId": user, "projectId": "p", "prompt": prompt}
        return (await self.corral.add_job(JobType.CODE_GENERATION, payload, **options)).id

    async def result(self, job_id: str) -> CodeGenerationResult:
        told = await self.corral.wait_for_result((JobType.CODE_GENERATION, job_id), timeout=timedelta(seconds=60))
        return CodeGenerationResult.model_validate(told)


@pytest.fixture
async def redis(corral_server: EmbeddedServer) -> Any:
    client = Redis.from_url(corral_server.url, decode_responses=True)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return write_repository(tmp_path / "repository")


@contextlib.asynccontextmanager
async def platform(
    server: EmbeddedServer, repository: Path, *replies: Reply, **settings: Any
) -> AsyncIterator[Platform]:
    async with OpenAiServer(*replies).running() as models:
        known = Settings(
            _env_file=None,
            model="openai-compatible:m",
            model_base_url=models.url,
            data_dir=repository.parent / "data",
            **settings,
        )
        async with Corral(server.url, settings=known) as corral:
            await corral.parts.projects.add(Project(id="p", repository=str(repository)))
            await corral.start_workers([JobType.CODE_GENERATION])
            yield Platform(corral, models)


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize("refusal", [429, 503])
async def test_a_provider_that_asks_for_patience_costs_no_attempt(
    corral_server: EmbeddedServer, repository: Path, refusal: int
) -> None:
    patience = Reply(status=refusal, headers={"Retry-After": "1"})
    async with platform(corral_server, repository, patience, patience, EDITS, FINISHES) as there:
        job = await there.add("t1", attempts=1)
        result = await there.result(job)
        status = await there.corral.get_job_status(JobType.CODE_GENERATION, job)
    assert (result.ended, result.commit is not None) == (EndReason.FINISHED, True)
    assert len(there.models.requests) == 4
    assert (status.attempts, status.max_attempts) == (1, 1)


async def test_the_same_question_of_another_job_is_answered_by_the_cache(
    corral_server: EmbeddedServer, repository: Path, redis: Any
) -> None:
    async with platform(corral_server, repository, EDITS, FINISHES) as there:
        first = await there.result(await there.add("t1"))
        second = await there.result(await there.add("t2", user="other"))
        assert len(there.models.requests) == 2
        stats = await there.corral.response_cache.stats("openai-compatible:m")
    assert (first.cache_hits, first.tokens.input, first.tokens.output) == (0, 22, 14)
    assert (second.cache_hits, second.tokens.input, second.tokens.output) == (2, 0, 0)
    assert second.diff == first.diff
    assert (stats.hits, stats.misses, stats.stored, stats.saved_tokens) == (2, 2, 2, 2 * EACH)
    # What cost nothing is on nobody's account.
    accounts = await redis.keys("corral:bull:llm-budget:user:*")
    assert [key.rpartition(":")[2] for key in accounts] == ["u"]


@pytest.mark.usefixtures("redis")
@pytest.mark.parametrize(
    ("setting", "others"),
    [("user_tokens_per_day", EndReason.FINISHED), ("tokens_per_day", EndReason.BUDGET)],
)
async def test_a_budget_of_the_settings_ends_the_job_with_what_there_is(
    corral_server: EmbeddedServer, repository: Path, setting: str, others: EndReason
) -> None:
    async with platform(corral_server, repository, EDITS, FINISHES, **{setting: EACH}) as there:
        result = await there.result(await there.add("t1"))
        assert (result.ended, result.partial, result.commit is not None) == (EndReason.BUDGET, True, True)
        assert len(there.models.requests) == 1, "checked before each call"
        nothing = await there.result(await there.add("t2"))
        assert (nothing.ended, nothing.partial, nothing.commit) == (EndReason.BUDGET, True, None)
        assert len(there.models.requests) == 1
        other = await there.result(await there.add("t3", user="other"))
    assert other.ended is others


@pytest.mark.usefixtures("redis")
async def test_jobs_that_run_at_once_pass_a_budget_by_one_call_and_no_more(
    corral_server: EmbeddedServer, repository: Path
) -> None:
    """Each job makes two calls; the second of all calls reaches the budget."""
    edits = [EDITS] * 8  # whoever is asked: nobody gets to the second question
    async with platform(corral_server, repository, *edits, tokens_per_day=2 * EACH, concurrency=4) as there:
        jobs = [await there.add(f"t{number}", prompt=f"Mend add in calc.py, way {number}") for number in range(4)]
        results = [await there.result(job) for job in jobs]
        assert len(there.models.requests) == 2
    assert [result.ended for result in results] == [EndReason.BUDGET] * 4
    assert sum(result.tokens.input + result.tokens.output for result in results) == 2 * EACH
