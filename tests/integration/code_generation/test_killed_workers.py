"""A worker is killed, and a job cancelled, at every kind of seam of a job: what is paid, found and left."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from tests.integration.code_generation.test_real_repository import EDIT, FINISH, Bench
from tests.support.killing import Seams, seams_of

from corral.adapters.llm.budgets import Allowance, Budgets
from corral.adapters.llm.port import ModelAnswer, ModelRequest, ModelTraits, OnText, Role, Usage
from corral.adapters.workspace import Workspaces
from corral.errors import StoreUnavailable
from corral.jobs.code_generation.handler import CodeGenerationHandler
from corral.jobs.code_generation.payload import CodeGeneration
from corral.jobs.code_generation.result import CodeGenerationResult, EndReason
from corral.jobs.test_execution.report import TestReport
from corral.settings import Settings
from corral.testing import EmbeddedServer, RecordingReporter, TcpProxy, job_for

_EACH = 10
"""Tokens."""


class Counting:
    """A model that does the task in two answers, and writes down in a file that it was asked."""

    name = "scripted"
    traits = ModelTraits()

    def __init__(self, file: Path) -> None:
        self._file = file

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        del on_text
        answer = FINISH if any(message.role is Role.TOOL for message in request.messages) else EDIT
        with self._file.open("a") as file:
            file.write(f"ask {answer.tool_calls[0].name}\n")
        return answer.model_copy(update={"usage": Usage(input_tokens=_EACH), "model": self.name})

    async def close(self) -> None:
        pass


class CountingTests:
    """Passes what adds, and writes down in a file that it ran."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def run(self, worktree: Path, *, command: str, commit: str, **_: Any) -> TestReport:
        passed = "a + b" in (worktree / "calc.py").read_text()
        with self._file.open("a") as file:
            file.write(f"tests {passed}\n")
        return TestReport(passed=passed, runner="command", command=command, commit=commit)


async def attempt(
    url: str,
    folder: str,
    *,
    starts: int = 1,
    reporter: RecordingReporter | None = None,
    model: Counting | None = None,
) -> CodeGenerationResult:
    root = Path(folder)
    redis = Redis.from_url(url, decode_responses=True)
    bench = Bench(redis, root / "data", root / "repository")

    async def open_model(_: str) -> Any:
        return model or Counting(root / "paid.txt")

    handler = CodeGenerationHandler(
        settings=Settings(_env_file=None, model="scripted", data_dir=bench.data_dir),
        projects=bench.projects,
        workspaces=Workspaces(data_dir=bench.data_dir, commits=bench.commits),
        open_model=open_model,
        tests=CountingTests(root / "paid.txt"),
        redis=redis,
        budgets=Budgets(redis, user=Allowance(tokens=1_000_000)),
    )
    task = CodeGeneration(task_id="t1", user_id="u", project_id="p", prompt="Mend add", test_command="true")
    job = job_for(task, job_type="code-generation", starts=starts, reporter=reporter)
    try:
        return await handler(job)
    finally:
        await redis.aclose()


async def killed(url: str, folder: str) -> None:
    await attempt(url, folder)


async def run_until(seam: int, url: str, folder: Path) -> tuple[int, list[str]]:
    """Run a worker that dies at a seam; how it ended, and the seams that it passed."""
    (folder / "seams.txt").unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.killing", f"{__name__}:killed", str(seam), url, str(folder)),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    code = await process.wait()
    return code, (folder / "seams.txt").read_text().splitlines()


def git(repository: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    done = subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True, capture_output=True)
    return done.stdout.decode().strip()


@pytest.mark.timeout(600)
async def test_whenever_a_worker_is_killed_its_successor_pays_for_no_kept_step_again(
    bench: Bench, corral_server: EmbeddedServer, tmp_path: Path
) -> None:
    passed: list[str] = []
    for _ in range(2):  # the first makes the mirror
        await start_anew(bench, tmp_path)
        code, passed = await run_until(0, corral_server.url, tmp_path)
        assert code == 0
    assert len(passed) > 30
    for seam in seams_of(passed):
        await start_anew(bench, tmp_path)
        code, done = await run_until(seam, corral_server.url, tmp_path)
        told = f"killed at {seam}: {done[-1]}"
        assert code == -9, told
        before = git(bench.repository, "rev-parse", "main")
        git(bench.repository, "commit", "--quiet", "--allow-empty", "-m", "Move on")
        reporter = RecordingReporter()
        result = await attempt(corral_server.url, str(tmp_path), starts=2, reporter=reporter)
        paid = Counter((tmp_path / "paid.txt").read_text().splitlines())
        # The one step that was paid for when the worker died may be paid for once more.
        assert sum(paid.values()) <= 5, (told, paid)
        assert len(paid) == 4, (told, paid)
        assert result.ended is EndReason.TESTS_PASS, told
        if result.resumed_steps:
            assert result.base == before, told
        assert bench.worktrees() == [], told
        branches = [name for name in bench.branches() if name.startswith("refs/heads/")]
        assert branches == ["refs/heads/corral/t1"], told
        assert git_dir(bench, "rev-parse", "refs/heads/corral/t1", "refs/heads/corral/t1^") == [
            result.commit, result.base,
        ], told  # fmt: skip
        assert await bench.commits.tip("p", "corral/t1") == result.commit, told
        spent = await bench.redis.hget("corral:llm-budget:job:p:t1:1", "tokens")
        asked = paid["ask edit"] + paid["ask finish"]
        assert int(spent) in {_EACH * asked, _EACH * (asked - 1)}, (told, spent, paid)
        assert await bench.redis.keys("*:held:*") == [], told
        assert (tmp_path / "data" / "projects" / "p").is_dir()
        assert [path.name for path in (tmp_path / "data" / "projects" / "p" / "worktrees").iterdir()] == [], told


async def start_anew(bench: Bench, folder: Path) -> None:
    await bench.redis.flushdb()
    await bench.add()
    (folder / "paid.txt").unlink(missing_ok=True)
    for branch in bench.branches() if (bench.data_dir / "projects").exists() else ():
        git_dir(bench, "update-ref", "-d", branch)


def git_dir(bench: Bench, *arguments: str) -> list[str]:
    mirror = next(path.parent for path in (bench.data_dir / "projects").rglob("HEAD"))
    done = subprocess.run(["git", "--git-dir", str(mirror), *arguments], capture_output=True, check=True)
    return done.stdout.decode().split()


@pytest.mark.timeout(600)
async def test_whenever_a_job_is_cancelled_it_leaves_all_as_it_was(
    bench: Bench, corral_server: EmbeddedServer, tmp_path: Path
) -> None:
    async def cancelled_at(seam: int) -> tuple[bool, list[str]]:
        await bench.redis.delete("no such key", *await bench.redis.keys("corral:journal:*"))
        task = asyncio.ensure_future(attempt(corral_server.url, str(tmp_path)))
        seams = Seams(seam, lambda: None if task.done() else _cancel(task))
        with pytest.MonkeyPatch.context() as patch:
            seams.sew(patch)
            await asyncio.wait({task})
        return task.cancelled(), seams.passed

    async def left() -> tuple[Any, ...]:
        commits = await bench.redis.keys("corral:bull:commit:*")
        held = await bench.redis.keys("*:held:*")
        return sorted(commits), bench.branches(), await bench.commits.tip("p", "corral/t1"), held

    await start_anew(bench, tmp_path)
    await cancelled_at(0)
    for branch_before in (False, True):
        await start_anew(bench, tmp_path)
        if branch_before:
            await attempt(corral_server.url, str(tmp_path))
        # Another base, so that it is another commit.
        git(bench.repository, "commit", "--quiet", "--allow-empty", "-m", "Move on")
        before = await left()
        _, passed = await cancelled_at(0)
        for seam in seams_of(passed):
            await restore(bench, before)
            ended, done = await cancelled_at(seam)
            told = f"cancelled at {seam}: {done[seam - 1]}"
            assert ended, told
            assert await left() == before, told
            assert bench.worktrees() == [], told


class Slow(Counting):
    """Lets a test in while it answers."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        answer = await super().complete(request, on_text=None)
        assert on_text is not None
        await on_text("thinking\n")
        self.asked.set()
        await self.go_on.wait()
        await on_text("done\n")
        return answer


async def test_a_paid_answer_outlasts_an_outage_of_redis(
    bench: Bench, corral_server: EmbeddedServer, tmp_path: Path
) -> None:
    model, reporter = Slow(tmp_path / "paid.txt"), RecordingReporter()
    async with TcpProxy(corral_server.port) as proxy:
        working = asyncio.create_task(
            attempt(proxy.url_for(corral_server.url), str(tmp_path), model=model, reporter=reporter)
        )
        await model.asked.wait()
        await proxy.cut()
        reporter.fail_with = StoreUnavailable()
        tried = proxy.accepted
        model.go_on.set()
        async with asyncio.timeout(20):
            while proxy.accepted < tried + 3:  # what it has to write down is tried again
                await asyncio.sleep(0.01)
        assert not working.done()
        assert await bench.redis.hget("corral:llm-budget:job:p:t1:1", "tokens") is None
        reporter.fail_with = None
        proxy.mend()
        result = await working
    assert result.ended is EndReason.TESTS_PASS
    assert (tmp_path / "paid.txt").read_text().splitlines() == ["tests False", "ask edit", "ask finish", "tests True"]
    assert await bench.redis.hget("corral:llm-budget:job:p:t1:1", "tokens") == str(2 * _EACH)
    assert [line for line in reporter.log_lines if line in {"thinking", "done"}] == ["thinking", "done"] * 2


def _cancel(task: asyncio.Task[Any]) -> None:
    task.cancel()


async def restore(bench: Bench, before: tuple[Any, ...]) -> None:
    """Undo what a job left that was not cancelled."""
    commits, branches, tip, _ = before
    for key in set(await bench.redis.keys("corral:bull:commit:*")) - set(commits):
        await bench.redis.delete(key)
    if tip is None:
        await bench.redis.delete("corral:bull:branch:p:corral/t1")
    else:
        await bench.redis.set("corral:bull:branch:p:corral/t1", tip)
    for branch in bench.branches():
        if branch in branches:
            git_dir(bench, "update-ref", branch, tip)
        else:
            git_dir(bench, "update-ref", "-d", branch)
