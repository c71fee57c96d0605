"""The pull-request job on GitLab and Gitea, with pushes through real git over HTTP with authentication."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.fake_forges import FakeForge, FakeGitea, FakeGitLab
from tests.support.pull_requests import PullRequestBench
from tests.support.web_server import Reply

from corral.adapters.forge.gitea import GiteaForge
from corral.adapters.forge.gitlab import GitLabForge
from corral.adapters.forge.port import Forge
from corral.adapters.forge.registry import Forges
from corral.errors import ForgeFailed
from corral.jobs.pr_creation.payload import PrState
from corral.projects import ForgeKind


@pytest.fixture(params=["gitlab", "gitea"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[FakeForge, PullRequestBench]]:
    kind = ForgeKind(request.param)
    with contextlib.ExitStack() as stack:
        fake: FakeForge = stack.enter_context((FakeGitLab if kind is ForgeKind.GITLAB else FakeGitea)(tmp_path))
        forge: Forge = (
            GitLabForge(SecretStr(fake.token), url=fake.server.url)
            if kind is ForgeKind.GITLAB
            else GiteaForge(SecretStr(fake.token), url=fake.server.url)
        )
        bench = PullRequestBench(
            tmp_path,
            repository=fake.repository,
            project={"repository": fake.address, "forge": kind},
            forges=Forges({kind: lambda _url: forge}),
        )
        yield fake, bench


async def test_one_is_opened_and_found_again(served: tuple[FakeForge, PullRequestBench]) -> None:
    fake, bench = served
    commit = await bench.generate({"a.txt": "a\n"})
    first = await bench.open(commit, labels=("bot",), reviewers=("grace",), draft=True)
    second = await bench.open(commit, labels=("bot",), reviewers=("grace",), draft=True)
    assert (first.created, first.state) == (True, PrState.DRAFT)
    assert second == first.model_copy(update={"created": False})
    assert len(fake.pulls) == 1
    assert fake.repository.tip("corral/7") == first.head
    await bench.forges.aclose()


@pytest.mark.parametrize(
    ("reply", "reason", "retryable"),
    [
        (Reply(429, b"{}", {"Retry-After": "5"}), "rate_limited", True),
        (Reply(502, b"bad gateway"), "unavailable", True),
        (Reply(401, b'{"message": "401 Unauthorized"}'), "authentication_failed", False),
        (Reply(403, b'{"message": "403 Forbidden"}'), "permission_denied", False),
        (Reply(404, b'{"message": "404 Project Not Found"}'), "repository_not_found", False),
        (Reply(302, b""), "repository_moved", False),
        (Reply(200, b"<html>"), "invalid_answer", False),
        (Reply(drop=True), "unreachable", True),
    ],
)
async def test_refusals_are_told_apart(
    served: tuple[FakeForge, PullRequestBench], reply: Reply, reason: str, *, retryable: bool
) -> None:
    fake, bench = served
    commit = await bench.generate({"a.txt": "a\n"})
    fake.answer_next.append(reply)
    with pytest.raises(ForgeFailed) as raised:
        await bench.open(commit)
    assert (raised.value.reason, raised.value.retryable) == (reason, retryable)
    assert fake.token not in str(raised.value)
    await bench.forges.aclose()


async def test_an_archived_one_is_told(served: tuple[FakeForge, PullRequestBench]) -> None:
    fake, bench = served
    fake.archived = True
    commit = await bench.generate({"a.txt": "a\n"})
    with pytest.raises(Exception, match="archived"):
        await bench.open(commit)
    await bench.forges.aclose()
