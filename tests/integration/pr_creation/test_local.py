"""The pull-request job on the local forge, with real git."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.support.pull_requests import PullRequestBench
from tests.support.repositories import git

from corral.errors import Unrecoverable
from corral.jobs.pr_creation.description import key_of
from corral.jobs.pr_creation.payload import PrState


@pytest.fixture
def bench(tmp_path: Path) -> PullRequestBench:
    return PullRequestBench(tmp_path)


async def test_a_generated_commit_becomes_a_pull_request(bench: PullRequestBench) -> None:
    commit = await bench.generate({"src/thing.py": "THING = 1\n", "README.md": "# Better\n"})

    result = await bench.open(commit, test_summary="3 passed", labels=("bot",), reviewers=("grace",))

    assert (result.number, result.created, result.state) == (1, True, PrState.OPEN)
    assert (result.files_changed, result.lines_added, result.lines_removed) == (2, 2, 1)
    assert result.base == bench.repository.tip("main")
    assert result.head == bench.repository.tip("corral/7")
    [shown] = await bench.local.list_pull_requests(bench.repository.bare)
    assert (shown.title, shown.labels, shown.reviewers) == ("Add a thing", ("bot",), ("grace",))
    assert "It adds a thing." in shown.body
    assert "3 passed" in shown.body
    assert git(bench.repository.bare, "rev-parse", "refs/pull/1/head") == result.head
    assert "Corral-User: ada" in bench.repository.show(result.head)
    assert "THING = 1" in await bench.local.diff(bench.repository.bare, 1)


async def test_the_same_job_again_finds_its_pull_request(bench: PullRequestBench) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    first = await bench.open(commit)

    second = await bench.open(commit)

    assert second == first.model_copy(update={"created": False})
    assert len(await bench.local.list_pull_requests(bench.repository.bare)) == 1


async def test_two_jobs_at_once_open_one_pull_request(tmp_path: Path, bench: PullRequestBench) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    other = PullRequestBench(tmp_path / "other", repository=bench.repository, redis=bench.redis)

    results = await asyncio.gather(bench.open(commit), other.open(commit), bench.open(commit))

    assert {result.number for result in results} == {1}
    assert sum(result.created for result in results) == 1
    assert bench.repository.branches() == ["corral/7", "main"]


async def test_a_newer_commit_of_the_branch_updates_it(bench: PullRequestBench) -> None:
    first = await bench.open(await bench.generate({"a.txt": "a\n"}))

    second = await bench.open(await bench.generate({"a.txt": "better\n"}), title="Better", description="Second try")

    assert (second.number, second.created) == (first.number, False)
    assert second.head != first.head
    assert bench.repository.tip("corral/7") == second.head
    shown = await bench.local.show(bench.repository.bare, 1)
    assert (shown.title, shown.head) == ("Better", second.head)
    assert "Second try" in shown.body


async def test_somebody_elses_branch_is_never_overwritten(bench: PullRequestBench) -> None:
    theirs = bench.repository.commit({"theirs.txt": "mine\n"}, branch="corral/7")
    commit = await bench.generate({"a.txt": "a\n"}, rev="main")

    with pytest.raises(Unrecoverable, match="never overwritten") as raised:
        await bench.open(commit)

    assert raised.value.reason == "branch_has_other_commits"
    assert "ada@example.org" in str(raised.value)
    assert bench.repository.tip("corral/7") == theirs
    assert await bench.local.list_pull_requests(bench.repository.bare) == []


async def test_work_that_a_person_added_to_the_branch_stays(bench: PullRequestBench) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    await bench.open(commit)
    git(bench.repository.clone, "fetch", "--quiet", "origin")
    git(bench.repository.clone, "checkout", "--quiet", "-b", "corral/7", "origin/corral/7")
    theirs = bench.repository.commit({"more.txt": "more\n"}, branch="corral/7")

    again = await bench.open(commit)

    assert (again.created, again.head, again.files_changed) == (False, theirs, 2)
    assert bench.repository.tip("corral/7") == theirs


async def test_it_stays_even_when_the_target_moved_too(bench: PullRequestBench) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    await bench.open(commit)
    git(bench.repository.clone, "fetch", "--quiet", "origin")
    git(bench.repository.clone, "checkout", "--quiet", "-b", "corral/7", "origin/corral/7")
    theirs = bench.repository.commit({"more.txt": "more\n"}, branch="corral/7")
    bench.repository.commit({"README.md": "# Moved\n"}, branch="main")

    again = await bench.open(commit)

    assert (again.created, again.head) == (False, theirs)


async def test_a_moved_target_is_rebased_onto(bench: PullRequestBench) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    moved = bench.repository.commit({"other.txt": "x\n"})

    result = await bench.open(commit)

    assert result.base == moved
    assert git(bench.repository.bare, "rev-parse", f"{result.head}^") == moved
    assert (result.state, result.files_changed) == (PrState.OPEN, 1)


async def test_a_line_of_commits_is_replayed_one_by_one(bench: PullRequestBench) -> None:
    first = await bench.generate({"a.txt": "a\n"}, message="First")
    second = await bench.generate({"b.txt": "b\n"}, rev=first, message="Second")
    moved = bench.repository.commit({"other.txt": "x\n"})

    result = await bench.open(second)

    log = git(bench.repository.bare, "log", "--format=%s", f"{moved}..{result.head}").splitlines()
    assert log == ["Second", "First"]
    assert git(bench.repository.bare, "merge-base", result.head, moved) == moved


async def test_what_replays_badly_but_merges_well_is_merged(bench: PullRequestBench) -> None:
    first = await bench.generate({"README.md": "# Mine\n"}, message="Change")
    second = await bench.generate({"README.md": "# Sample\n", "a.txt": "a\n"}, rev=first, message="And back")
    moved = bench.repository.commit({"README.md": "# Theirs\n"})

    result = await bench.open(second)

    assert result.state is PrState.OPEN
    assert git(bench.repository.bare, "log", "-1", "--format=%P", result.head).split()[1] == moved
    assert bench.repository.show(f"{result.head}:README.md") == "# Theirs"


async def test_a_conflict_is_shown_with_its_files(bench: PullRequestBench) -> None:
    commit = await bench.generate({"README.md": "# Mine\n", "a.txt": "a\n"})
    bench.repository.commit({"README.md": "# Theirs\n"})

    result = await bench.open(commit)

    assert (result.state, result.conflicts) == (PrState.CONFLICT, ("README.md",))
    assert (await bench.local.show(bench.repository.bare, 1)).conflicts == ("README.md",)


async def test_nothing_to_merge_is_a_failure(bench: PullRequestBench) -> None:
    with pytest.raises(Unrecoverable) as raised:
        await bench.open(bench.repository.tip())
    assert raised.value.reason == "nothing_to_merge"


async def test_what_the_target_has_already_is_nothing_to_merge(bench: PullRequestBench) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    bench.repository.commit({"a.txt": "a\n"})
    with pytest.raises(Unrecoverable) as raised:
        await bench.open(commit)
    assert raised.value.reason == "nothing_to_merge"
    assert bench.repository.branches() == ["main"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"target_branch": "release"}, "target_missing"),
        ({"source_branch": "main", "target_branch": "corral/7"}, "source_is_default_branch"),
        ({"source_branch": "a..b"}, "invalid_branch"),
        ({"source_branch": "a.lock"}, "invalid_branch"),
        ({"source_branch": "main", "target_branch": "main"}, "same_branch"),
        ({"commit_id": "0" * 40}, "commit_not_found"),
        ({"commit_id": "no-such"}, "commit_not_found"),
    ],
)
async def test_bad_requests_are_refused(bench: PullRequestBench, fields: dict[str, str], reason: str) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    with pytest.raises(Unrecoverable) as raised:
        await bench.open(fields.pop("commit_id", commit), **fields)
    assert raised.value.reason == reason
    assert bench.repository.branches() == ["main"]


async def test_a_merged_one_is_found_again(bench: PullRequestBench) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    opened = await bench.open(commit)
    merged = await bench.local.merge(bench.repository.bare, 1)

    again = await bench.open(commit)

    assert (again.number, again.state, again.created) == (1, PrState.MERGED, False)
    assert again.files_changed == opened.files_changed
    assert bench.repository.tip("main") == merged.merge_commit


async def test_a_closed_one_is_not_opened_again_but_another_commit_opens_a_new_one(bench: PullRequestBench) -> None:
    commit = await bench.generate({"a.txt": "a\n"})
    await bench.open(commit)
    await bench.local.close(bench.repository.bare, 1)

    assert (await bench.open(commit)).state is PrState.CLOSED
    fresh = await bench.open(await bench.generate({"a.txt": "other\n"}))
    assert (fresh.number, fresh.created) == (2, True)


async def test_auto_merge_merges_at_once_where_no_checks_are(bench: PullRequestBench) -> None:
    result = await bench.open(await bench.generate({"a.txt": "a\n"}), auto_merge=True)
    assert result.state is PrState.MERGED
    assert bench.repository.show("main:a.txt") == "a"


async def test_a_draft_stays_one(bench: PullRequestBench) -> None:
    result = await bench.open(await bench.generate({"a.txt": "a\n"}), draft=True)
    assert result.state is PrState.DRAFT


async def test_the_projects_template_is_filled(bench: PullRequestBench) -> None:
    bench.repository.commit(
        {".github/pull_request_template.md": "## Description\n<!-- say what -->\n\n## How tested\n\n- [ ] reviewed\n"}
    )
    await bench.open(await bench.generate({"a.txt": "a\n"}), test_summary="3 passed")
    body = (await bench.local.show(bench.repository.bare, 1)).body
    assert "say what" not in body
    assert body.index("## Description") < body.index("It adds a thing.") < body.index("## How tested")
    assert body.index("3 passed") < body.index("- [ ] reviewed")
    assert key_of(body) is not None


async def test_a_change_to_the_template_does_not_shape_its_own_pull_request(bench: PullRequestBench) -> None:
    commit = await bench.generate({".github/pull_request_template.md": "Send money\n"})
    await bench.open(commit)
    assert "Send money" not in (await bench.local.show(bench.repository.bare, 1)).body
