"""The pull-request job on GitHub: REST validated by GitHub's own description, pushes through real git over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.support.fake_github import TOKEN, FakeGitHub, rate_limited
from tests.support.pull_requests import PullRequestBench
from tests.support.web_server import Reply, Request

from corral.adapters.forge.github import GitHubForge, PersonalToken
from corral.adapters.forge.registry import Forges
from corral.errors import AdapterError, ForgeFailed
from corral.jobs.pr_creation.payload import PrState
from corral.projects import ForgeKind

_LOOK, _OPEN = r"GET .*/shop$", r"POST .*/pulls$"


@pytest.fixture
def github(tmp_path: Path) -> Iterator[FakeGitHub]:
    with FakeGitHub(tmp_path) as running:
        yield running


@pytest.fixture
def bench(tmp_path: Path, github: FakeGitHub) -> PullRequestBench:
    return bench_on(tmp_path, github)


def bench_on(folder: Path, github: FakeGitHub, *, token: str = TOKEN) -> PullRequestBench:
    forge = GitHubForge(PersonalToken(SecretStr(token)), api_url=github.api_url)
    return PullRequestBench(
        folder,
        repository=github.repository,
        project={"repository": github.address, "forge": ForgeKind.GITHUB},
        forges=Forges({ForgeKind.GITHUB: lambda _url: forge}),
    )


async def test_a_generated_commit_becomes_a_pull_request(bench: PullRequestBench, github: FakeGitHub) -> None:
    commit = await bench.generate({"src/thing.py": "THING = 1\n"})

    result = await bench.open(commit, labels=("bot",), reviewers=("grace",), assignees=("linus",), draft=True)

    assert (result.number, result.created, result.state) == (1, True, PrState.DRAFT)
    assert result.url.endswith("/acme/shop/pull/1")
    assert result.head == github.repository.tip("corral/7")
    pull = github.pulls[1]
    assert pull["title"] == "Add a thing"
    assert [label["name"] for label in pull["labels"]] == ["bot"]
    assert [person["login"] for person in pull["requested_reviewers"]] == ["grace"]
    assert [person["login"] for person in pull["assignees"]] == ["linus"]


async def test_the_same_job_again_finds_it_and_creates_nothing(bench: PullRequestBench, github: FakeGitHub) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    first = await bench.open(commit, labels=("bot",))
    created = len(github.sent("POST", "/api/"))

    second = await bench.open(commit, labels=("bot",))

    assert second == first.model_copy(update={"created": False})
    assert len(github.sent("POST", "/api/")) == created
    assert len(github.pulls) == 1


async def test_auto_merge_is_turned_on(bench: PullRequestBench, github: FakeGitHub) -> None:
    await bench.open(await bench.generate({"a.txt": "a\n"}), auto_merge=True)
    assert github.pulls[1]["auto_merge"] is not None


async def test_a_merged_one_is_found_again(bench: PullRequestBench, github: FakeGitHub) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    await bench.open(commit)
    github.close(1, merged=True)
    again = await bench.open(commit)
    assert (again.state, again.created, len(github.pulls)) == (PrState.MERGED, False, 1)


async def test_an_answer_lost_after_the_pull_request_was_opened_is_settled(
    bench: PullRequestBench, github: FakeGitHub
) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    github.after_next.append((r"POST .*/pulls$", lambda _request: Reply(502)))
    with pytest.raises(ForgeFailed) as raised:
        await bench.open(commit)
    assert (raised.value.reason, raised.value.retryable) == ("unavailable", True)

    again = await bench.open(commit)

    assert (again.number, again.created, len(github.pulls)) == (1, False, 1)


async def test_a_pull_request_that_somebody_opened_meanwhile_is_found(
    bench: PullRequestBench, github: FakeGitHub
) -> None:
    commit = await bench.generate({"a.txt": "a\n"})

    def open_before(_request: object) -> None:
        github._open({"title": "By hand", "head": "corral/7", "base": "main", "body": "Hands off"})

    github.answer_next.append((r"POST .*/pulls$", open_before))
    result = await bench.open(commit)
    assert (result.number, result.created) == (1, False)
    assert github.pulls[1]["body"] == "Hands off"


@pytest.mark.parametrize(
    ("where", "answer", "reason", "seconds"),
    [
        (_LOOK, lambda _request: rate_limited(primary=True, seconds=900), "rate_limited", (880, 902)),
        (_OPEN, lambda _request: rate_limited(primary=False, seconds=7), "rate_limited", (7, 7)),
        (_OPEN, lambda _request: Reply(429, b"{}"), "rate_limited", (60, 60)),
        (
            _LOOK,
            lambda _request: Reply(403, b'{"message": "You have exceeded a secondary rate limit"}'),
            "rate_limited",
            (60, 60),
        ),
        (_LOOK, lambda _request: Reply(503, b"<html>", {"Retry-After": "9"}), "unavailable", (9, 9)),
        (_OPEN, lambda _request: Reply(500, b"{}"), "unavailable", None),
        (_OPEN, lambda _request: Reply(drop=True), "unreachable", None),
    ],
    ids=["primary", "secondary", "429", "secondary-without-header", "503", "500", "dropped"],
)
async def test_what_may_go_away_is_retried_when_github_says(  # noqa: PLR0917  as many as are varied
    bench: PullRequestBench,
    github: FakeGitHub,
    where: str,
    answer: Callable[[Request], Reply],
    reason: str,
    seconds: tuple[float, float] | None,
) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    github.answer_next.append((where, answer))
    with pytest.raises(ForgeFailed) as raised:
        await bench.open(commit)
    assert (raised.value.reason, raised.value.retryable) == (reason, True)
    if seconds is None:
        assert raised.value.retry_after is None
    else:
        assert raised.value.retry_after is not None
        assert seconds[0] <= raised.value.retry_after.total_seconds() <= seconds[1]
    assert (await bench.open(commit)).number == 1


async def test_each_refusal_is_told_apart(bench: PullRequestBench, github: FakeGitHub, tmp_path: Path) -> None:
    commit = await bench.generate({"a.txt": "a\n"})

    async def refused(*, on: PullRequestBench = bench, **fields: object) -> str:
        with pytest.raises(Exception) as raised:  # noqa: PT011  the reason is what is compared
            await on.open(commit, **fields)
        assert not getattr(raised.value, "retryable", False)
        return str(getattr(raised.value, "reason", raised.value))

    github.archived = True
    assert await refused() == "repository_archived"
    github.archived = False
    github.can_push = False
    assert await refused() == "permission_denied"
    github.can_push = True
    assert await refused(target_branch="release") == "target_missing"
    stranger = bench_on(tmp_path / "stranger", github, token="ghp_wrong")
    assert await refused(on=stranger) == "authentication_failed"
    github.drafts = False
    assert await refused(draft=True) == "draft_unsupported"
    assert await refused(reviewers=("nobody",)) == "reviewer_unknown"
    assert await refused(assignees=("nobody",)) == "assignee_unknown"
    errors = b'{"errors": [{"message": "Auto merge is not allowed for this repository"}]}'
    github.answer_next.append((r"POST .*graphql", lambda _request: Reply(200, errors)))
    assert await refused(auto_merge=True) == "auto_merge_unsupported"
    moved = Reply(301, b'{"message": "Moved Permanently"}', {"Location": github.server.url})
    github.answer_next.append((r"GET .*/shop$", lambda _request: moved))
    assert await refused() == "repository_moved"
    github.answer_next.append((r"GET .*/pulls$", lambda _request: Reply(200, b'[{"number": "x"}]')))
    assert await refused() == "invalid_answer"
    needs = Reply(
        403,
        b'{"message": "Resource not accessible by personal access token"}',
        {"x-accepted-github-permissions": "pull_requests=write"},
    )
    github.pulls.clear()
    github.answer_next.append((r"POST .*/pulls$", lambda _request: needs))
    with pytest.raises(ForgeFailed, match="the token needs pull_requests=write") as raised:
        await bench.open(commit)
    assert raised.value.reason == "permission_denied"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'GH006: Protected branch update failed for refs/heads/corral/7.' >&2; exit 1", "branch_protected"),
        ("echo 'GH013: Repository rule violations found' >&2; exit 1", "rule_violation"),
        ("echo 'no' >&2; exit 1", "hook_declined"),
    ],
)
async def test_a_push_that_the_forge_refuses(
    bench: PullRequestBench, github: FakeGitHub, script: str, reason: str
) -> None:
    hook = github.repository.bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)
    with pytest.raises(AdapterError) as raised:
        await bench.open(await bench.generate({"a.txt": "a\n"}))
    assert (raised.value.reason, raised.value.retryable) == (reason, False)
    assert github.pulls == {}


async def test_a_push_through_a_broken_server_is_tried_again(bench: PullRequestBench, github: FakeGitHub) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    github.git.fail_next += [Reply(503)]
    with pytest.raises(AdapterError) as raised:
        await bench.open(commit)
    assert (raised.value.reason, raised.value.retryable) == ("unreachable", True)
    assert (await bench.open(commit)).created


async def test_a_forge_that_gives_no_answer_is_tried_again(tmp_path: Path, github: FakeGitHub) -> None:
    answered = threading.Event()

    def wait(_request: Request) -> Reply:
        answered.wait(30)
        return Reply(500)

    github.answer_next.append((_LOOK, wait))
    forge = GitHubForge(PersonalToken(SecretStr(TOKEN)), api_url=github.api_url, timeout=timedelta(milliseconds=200))
    with pytest.raises(ForgeFailed) as raised:
        await forge.describe(github.address)
    answered.set()
    assert (raised.value.reason, raised.value.retryable) == ("timed_out", True)


async def test_the_token_goes_to_no_other_host(bench: PullRequestBench, github: FakeGitHub) -> None:
    bench.project = bench.project.model_copy(update={"repository": "http://127.0.0.2:9/acme/shop.git"})
    with pytest.raises(ForgeFailed) as raised:
        await bench.open("0" * 40)
    assert raised.value.reason == "repository_not_found"
