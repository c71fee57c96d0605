"""A worker that is killed between any two steps leaves a job that ends with one branch and one pull request."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from redis.asyncio import Redis
from tests.support.fake_github import TOKEN, FakeGitHub
from tests.support.pull_requests import PullRequestBench
from tests.support.repositories import Repository

from corral.adapters.forge.local import LocalForge
from corral.jobs.pr_creation.payload import PrResult
from corral.testing.server import EmbeddedServer

_ROOT = Path(__file__).resolve().parents[3]


class Workers:
    """Starts a worker for one job; it may be told when to die."""

    def __init__(self, asked: dict[str, Any], stdin: IO[str], stdout: IO[str]) -> None:
        self._asked, self._stdin, self._stdout = asked, stdin, stdout

    def run(self, *, branch: str, commit: str, die: int, folder: Path) -> tuple[str, PrResult | None]:
        """Gives where it died (or ``done``) and the result."""
        asked = {**self._asked, "branch": branch, "commit": commit, "die": die, "folder": str(folder)}
        self._stdin.write(json.dumps(asked) + "\n")
        self._stdin.flush()
        lines = []
        while (line := self._stdout.readline().strip()) != "ended":
            assert line, "the workers' process ended"
            lines.append(line)
        [told] = lines
        if told.startswith("done "):
            _, steps, result = told.split(" ", 2)
            return steps, PrResult.model_validate_json(result)
        return told, None


@contextlib.contextmanager
def workers(asked: dict[str, Any]) -> Iterator[Workers]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.pr_creation.killed_worker"],
        cwd=_ROOT,
        env={"PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}", "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        yield Workers(asked, process.stdin, process.stdout)
        process.stdin.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["local", "github"])
async def test_killed_between_every_two_steps(tmp_path: Path, kind: str, corral_private_server: EmbeddedServer) -> None:
    with contextlib.ExitStack() as stack:
        github = stack.enter_context(FakeGitHub(tmp_path)) if kind == "github" else None
        repository = github.repository if github else Repository(tmp_path / "forge")
        asked = {
            "bare": str(repository.bare),
            "address": github.address if github else str(repository.bare),
            "api": github.api_url if github else None,
            "token": TOKEN,
            "redis": corral_private_server.url,
        }
        started = stack.enter_context(workers(asked))
        redis = Redis.from_url(corral_private_server.url, decode_responses=True)
        bench = PullRequestBench(tmp_path / "maker", repository=repository, redis=redis)
        die, places = 0, ["undisturbed"]
        while True:
            branch = f"corral/{die}"
            commit = await bench.generate({f"{die}.txt": "a\n"}, rev="main", branch=branch)
            repository.commit({"moved.txt": f"{die}\n"})
            place, result = started.run(branch=branch, commit=commit, die=die, folder=tmp_path / "one")
            if result is None:
                assert place.startswith("killed "), place
                places.append(place)
                # Another worker, with another disk, gets the job.
                _, result = started.run(branch=branch, commit=commit, die=0, folder=tmp_path / "two")
            elif die:
                break  # it had fewer steps than that
            assert result is not None
            await _one_of_each(repository, github, branch, result)
            die += 1
        await redis.aclose()
        assert {"killed before git push", "killed after git push", "killed before open", "killed after open"} <= set(
            places
        )
        assert len(places) >= 12  # as many as there are steps


async def _one_of_each(repository: Repository, github: FakeGitHub | None, branch: str, result: PrResult) -> None:
    assert repository.branches().count(branch) == 1
    assert repository.tip(branch) == result.head
    if github is None:
        found = await LocalForge().find(str(repository.bare), source_branch=branch, target_branch="main")
        assert [(one.number, one.labels) for one in found] == [(result.number, ("bot",))]
    else:
        pulls = [pull for pull in github.pulls.values() if pull["head"]["ref"] == branch]
        assert [(pull["number"], [label["name"] for label in pull["labels"]]) for pull in pulls] == [
            (result.number, ["bot"])
        ]
