"""Pull-request jobs as users add them: through Redis and a worker, with the settings' own forges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.fake_github import TOKEN, FakeGitHub, rate_limited
from tests.support.pull_requests import PullRequestBench
from tests.support.web_server import Reply

from corral.client import Corral
from corral.errors import JobFailed
from corral.projects import ForgeKind, Project
from corral.settings import Settings
from corral.testing.server import EmbeddedServer


@pytest.fixture
def github(tmp_path: Path) -> Iterator[FakeGitHub]:
    with FakeGitHub(tmp_path) as running:
        yield running


@pytest.fixture
async def corral(
    tmp_path: Path, github: FakeGitHub, corral_server: EmbeddedServer, corral_prefix: str
) -> AsyncIterator[Corral]:
    settings = Settings(
        data_dir=tmp_path / "data",
        github_token=SecretStr(TOKEN),
        github_url=github.api_url,
        forge_write_interval=timedelta(milliseconds=1),
        backoff=timedelta(milliseconds=10),
    )
    async with Corral(corral_server.url, prefix=corral_prefix, settings=settings) as corral:
        project = Project(id="shop", repository=github.address, forge=ForgeKind.GITHUB)
        await corral.parts.projects.add(project, replace=True)
        yield corral


async def asked(tmp_path: Path, corral: Corral, github: FakeGitHub) -> dict[str, str]:
    bench = PullRequestBench(
        tmp_path / "maker", repository=github.repository, redis=corral.redis, namespace=corral.namespace
    )
    return {
        "taskId": "7",
        "userId": "ada",
        "projectId": "shop",
        "commitId": await bench.generate({"a.txt": "a\n"}),
        "title": "Add a thing",
        "description": "It adds a thing.",
        "sourceBranch": "corral/7",
        "targetBranch": "main",
    }


async def test_a_rate_limit_pauses_the_queue_and_costs_no_attempt(
    tmp_path: Path, corral: Corral, github: FakeGitHub
) -> None:
    github.answer_next.append((r"POST .*/pulls$", lambda _request: rate_limited(primary=False, seconds=1)))
    workers = await corral.start_workers(["pr-creation"])
    job = await corral.add_job("pr-creation", await asked(tmp_path, corral, github), attempts=1)
    async with asyncio.timeout(60):
        result = await corral.wait_for_result(job)
    assert (result.number, result.created, len(github.pulls)) == (1, True, 1)
    assert [request.path for request in github.sent("POST", "/pulls$")] == ["/api/v3/repos/acme/shop/pulls"] * 2
    await workers.stop()


async def test_a_broken_answer_is_tried_again_and_a_refusal_is_not(
    tmp_path: Path, corral: Corral, github: FakeGitHub
) -> None:
    workers = await corral.start_workers(["pr-creation"])
    fields = await asked(tmp_path, corral, github)
    github.after_next.append((r"POST .*/pulls$", lambda _request: Reply(502)))
    async with asyncio.timeout(60):
        result = await corral.wait_for_result(await corral.add_job("pr-creation", fields, attempts=2))
    assert (result.number, result.created, len(github.pulls)) == (1, False, 1)

    refused = await corral.add_job("pr-creation", {**fields, "targetBranch": "release"}, attempts=3)
    with pytest.raises(JobFailed, match="target_missing"):
        async with asyncio.timeout(60):
            await corral.wait_for_result(refused)
    assert (await corral.get_job_status("pr-creation", refused.id)).attempts == 1
    await workers.stop()
