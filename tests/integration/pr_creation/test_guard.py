"""What is never pushed: secrets, protected paths, what is too large, links that lead outside, submodules."""

from __future__ import annotations

import random
import string
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.support.pull_requests import PullRequestBench, Unscanned
from tests.support.repositories import Repository, git

from corral.adapters.secrets import BetterleaksScanner, Passage
from corral.errors import Unrecoverable

_LETTERS = string.ascii_letters + string.digits


def made_up(length: int) -> str:
    """Looks random and is the same in each run; no token stands in this file."""
    chance = random.Random(7)  # noqa: S311  of a test
    return "".join(chance.choice(_LETTERS) for _ in range(length))


TOKEN = "ghp_" + made_up(36)


@pytest.fixture
def bench(tmp_path: Path) -> PullRequestBench:
    return PullRequestBench(tmp_path)


@pytest.fixture
def scanning(tmp_path: Path) -> PullRequestBench:
    return PullRequestBench(tmp_path, scanner=BetterleaksScanner())


async def refused(bench: PullRequestBench, commit: str, **fields: object) -> Unrecoverable:
    with pytest.raises(Unrecoverable) as raised:
        await bench.open(commit, **fields)
    assert bench.repository.branches() == ["main"], "nothing may have been pushed"
    return raised.value


async def test_a_secret_stops_the_job_and_is_shown_masked(scanning: PullRequestBench) -> None:
    commit = await scanning.generate({"src/config.py": f'# config\n\nTOKEN = "{TOKEN}"\n'})
    error = await refused(scanning, commit)
    assert error.reason == "secret_found"
    assert "src/config.py:3" in str(error)
    assert "ghp_***" in str(error)
    assert TOKEN not in str(error)


async def test_a_secret_that_a_later_commit_removes_is_found_too(scanning: PullRequestBench) -> None:
    first = await scanning.generate({"config.py": f'TOKEN = "{TOKEN}"\n'})
    second = await scanning.generate({"config.py": "TOKEN = None\n"}, rev=first)
    error = await refused(scanning, second)
    assert "config.py:1 in commit" in str(error)


@pytest.mark.parametrize("where", ["title", "description", "test_summary"])
async def test_a_secret_in_the_words_is_found_too(scanning: PullRequestBench, where: str) -> None:
    commit = await scanning.generate({"a.txt": "a\n"})
    assert (await refused(scanning, commit, **{where: f'token = "{TOKEN}"'})).reason == "secret_found"


async def test_a_secret_in_a_commits_message_is_found_too(scanning: PullRequestBench) -> None:
    commit = await scanning.generate({"a.txt": "a\n"}, message=f'Use token = "{TOKEN}"')
    assert "commit message" in str(await refused(scanning, commit))


async def test_a_comment_that_allows_it_allows_nothing(scanning: PullRequestBench) -> None:
    commit = await scanning.generate({"a.py": f'TOKEN = "{TOKEN}"  # gitleaks:allow betterleaks:allow\n'})
    assert (await refused(scanning, commit)).reason == "secret_found"


async def test_a_secret_that_was_there_before_does_not_matter(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "forge", {"old.py": f'TOKEN = "{TOKEN}"\n', "README.md": "x\n"})
    bench = PullRequestBench(tmp_path, repository=repository, scanner=BetterleaksScanner())
    assert (await bench.open(await bench.generate({"a.txt": "a\n"}))).created


async def test_an_allowed_fingerprint_passes(scanning: PullRequestBench) -> None:
    commit = await scanning.generate({"config.py": f'TOKEN = "{TOKEN}"\n'})
    [found] = await BetterleaksScanner().scan([Passage(path="config.py", lines=(f'TOKEN = "{TOKEN}"',))])
    scanning.project = scanning.project.model_copy(update={"allowed_secrets": (found.fingerprint,)})
    assert (await scanning.open(commit)).created


async def test_made_up_logins_in_tests_pass_and_real_looking_keys_there_do_not() -> None:
    scanner = BetterleaksScanner()
    login = Passage(path="tests/test_login.py", lines=(f'login("alice", password="{made_up(12)}")',))
    assert await scanner.scan([login]) == []
    key = Passage(path="tests/test_login.py", lines=(f'token = "{TOKEN}"',))
    assert [finding.rule for finding in await scanner.scan([key])] == ["github-pat"]


async def test_all_commits_messages_and_words_are_shown_to_the_scanner(tmp_path: Path) -> None:
    scanner = Unscanned()
    bench = PullRequestBench(tmp_path, scanner=scanner)
    first = await bench.generate({"one.txt": "+++ b/odd.txt\ncommit 123\n", "sp ace.txt": "s\n"}, message="First")
    await bench.open(await bench.generate({"ü.txt": "u\n"}, rev=first, message="Second"))
    shown = {(passage.path, passage.lines) for passage in scanner.shown}
    assert ("one.txt", ("+++ b/odd.txt", "commit 123")) in shown
    assert ("sp ace.txt", ("s",)) in shown
    assert ("ü.txt", ("u",)) in shown
    assert any(path == "commit message" and lines[0] == "First" for path, lines in shown)


@pytest.mark.parametrize(
    "path",
    [
        ".github/workflows/ci.yml",
        ".github/actions/x/action.yml",
        ".gitlab-ci.yml",
        ".forgejo/workflows/a.yml",
        "Jenkinsfile",
    ],
)
async def test_what_runs_in_ci_is_protected_unless_the_project_allows_it(bench: PullRequestBench, path: str) -> None:
    commit = await bench.generate({path: "on: push\n"})
    error = await refused(bench, commit)
    assert error.reason == "protected_path"
    assert path in str(error)
    bench.project = bench.project.model_copy(update={"allow_workflow_changes": True})
    assert (await bench.open(commit)).created


async def test_a_project_protects_more(bench: PullRequestBench) -> None:
    bench.project = bench.project.model_copy(update={"protected_paths": ("migrations/**", "*.lock")})
    assert (await refused(bench, await bench.generate({"migrations/1/a.sql": "x\n"}))).reason == "protected_path"
    assert (await refused(bench, await bench.generate({"uv.lock": "x\n"}))).reason == "protected_path"
    assert (await bench.open(await bench.generate({"sub/uv.lock": "x\n"}))).created


@pytest.mark.parametrize(
    ("limit", "files", "reason"),
    [
        ({"max_changed_files": 1}, {"a": "a\n", "b": "b\n"}, "too_many_files"),
        ({"max_changed_lines": 2}, {"a": "1\n2\n3\n"}, "too_many_lines"),
        ({"max_file_bytes": 10}, {"a": "12345678901\n"}, "file_too_large"),
    ],
)
async def test_sizes_are_bounded(
    bench: PullRequestBench, limit: Mapping[str, int], files: Mapping[str, str], reason: str
) -> None:
    bench.project = bench.project.model_copy(update=dict(limit))
    assert (await refused(bench, await bench.generate(files))).reason == reason


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside", "sub/../../x", ".git/config"])
async def test_links_that_lead_outside_are_refused(bench: PullRequestBench, target: str) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        (workspace.path / "link").symlink_to(target)
        commit = await workspace.commit_all(branch="corral/7", message="x", author="R <r@x>", trailers={})
    assert (await refused(bench, commit)).reason == "unsafe_link"


async def test_links_that_stay_inside_pass(bench: PullRequestBench) -> None:
    async with bench.workspaces.checkout(bench.project) as workspace:
        (workspace.path / "src" / "link").symlink_to("../README.md")
        commit = await workspace.commit_all(branch="corral/7", message="x", author="R <r@x>", trailers={})
    assert (await bench.open(commit)).created


async def test_submodules_are_refused(bench: PullRequestBench) -> None:
    clone = bench.repository.clone
    git(clone, "checkout", "--quiet", "-b", "sub")
    git(clone, "update-index", "--add", "--cacheinfo", f"160000,{bench.repository.tip()},sub")
    git(clone, "commit", "--quiet", "--message", "Sub")
    git(clone, "push", "--quiet", "origin", "HEAD:refs/tags/with-sub")
    assert (await refused(bench, "with-sub")).reason == "submodule_change"


async def test_a_scanner_that_fails_lets_nothing_through(tmp_path: Path) -> None:
    broken = tmp_path / "betterleaks"
    broken.write_text("#!/bin/sh\necho '{}'\n")
    broken.chmod(0o755)
    bench = PullRequestBench(tmp_path, scanner=BetterleaksScanner(broken))
    commit = await bench.generate({"a.txt": "a\n"})
    with pytest.raises(Exception, match="nothing was pushed") as raised:
        await bench.open(commit)
    assert getattr(raised.value, "reason", "") == "secret_scan_failed"
    assert bench.repository.branches() == ["main"]
