"""The handler on a real repository, a real Redis, and processes that die."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.llm.port import ModelAnswer, ModelRequest, ModelTraits, OnText, ToolCall
from corral.adapters.llm.scripted import ScriptedModel
from corral.adapters.workspace import Workspaces
from corral.commits import CommitStore
from corral.jobs.code_generation.handler import CodeGenerationHandler
from corral.jobs.code_generation.payload import CodeGeneration
from corral.jobs.code_generation.result import EndReason
from corral.projects import Project, ProjectStore
from corral.settings import Settings
from corral.testing import EmbeddedServer, job_for

EDIT = ModelAnswer(
    tool_calls=(
        ToolCall(
            id="1",
            name="edit",
            arguments='{"edits": [{"path": "calc.py", "search": "    return a - b", "replace": "    return a + b"}]}',
        ),
    )
)
FINISH = ModelAnswer(tool_calls=(ToolCall(id="2", name="finish", arguments='{"summary": "add adds"}'),))


class Hanging(ScriptedModel):
    """Says what it was told to say, and then nothing."""

    def __init__(self, *answers: ModelAnswer) -> None:
        super().__init__(answers)
        self.hangs = asyncio.Event()
        self._left = len(answers)

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        if not self._left:
            self.hangs.set()
            await asyncio.Event().wait()
        self._left -= 1
        return await super().complete(request, on_text=on_text)

    @property
    def traits(self) -> ModelTraits:
        return ModelTraits()


class Bench:
    """What a worker has, over one Redis and one data folder."""

    def __init__(self, redis: Any, data_dir: Path, repository: Path) -> None:
        self.redis, self.data_dir, self.repository = redis, data_dir, repository
        self.commits = CommitStore(redis, prefix="corral:bull")
        self.projects = ProjectStore(redis, prefix="corral:bull")

    async def add(self) -> None:
        await self.projects.add(Project(id="p", repository=str(self.repository)), replace=True)

    async def run(self, model: Any, **settings: Any) -> Any:
        async def open_model(_: str) -> Any:
            return model

        handler = CodeGenerationHandler(
            settings=Settings(_env_file=None, model="scripted", data_dir=self.data_dir, **settings),
            projects=self.projects,
            workspaces=Workspaces(data_dir=self.data_dir, commits=self.commits),
            open_model=open_model,
            redis=self.redis,
        )
        task = CodeGeneration(task_id="t1", user_id="u", project_id="p", prompt="Mend add in calc.py")
        return await handler(job_for(task, job_type="code-generation"))

    def branches(self) -> list[str]:
        mirrors = [path.parent for path in (self.data_dir / "projects").rglob("HEAD")]
        refs = [
            subprocess.run(
                ["git", "--git-dir", str(mirror), "for-each-ref", "--format=%(refname)"],
                capture_output=True, text=True, check=True,
            ).stdout.split()
            for mirror in mirrors
        ]  # fmt: skip
        assert refs, "there is no mirror to look at"
        return [ref for found in refs for ref in found if "corral/" in ref]

    def worktrees(self) -> list[Path]:
        return [path for path in (self.data_dir / "projects").glob("*/worktrees/*") if path.is_dir()]


def write_repository(folder: Path) -> Path:
    folder.mkdir()
    (folder / "calc.py").write_text("def add(a, b):\n    return a - b\n")
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "Begin")):
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        subprocess.run(["git", "-C", str(folder), *identity, *command], check=True)
    return folder


async def test_cancelling_in_the_middle_of_a_call_leaves_neither_worktree_nor_branch(bench: Bench) -> None:
    model = Hanging(EDIT)
    task = asyncio.create_task(bench.run(model))
    await model.hangs.wait()
    assert len(bench.worktrees()) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.worktrees() == []
    assert bench.branches() == []
    assert await bench.commits.tip("p", "corral/t1") is None


async def test_a_refusal_and_no_change_leave_no_branch_either(bench: Bench) -> None:
    result = await bench.run(ScriptedModel([FINISH]))
    assert (result.ended, result.branch, result.commit) == (EndReason.NO_CHANGE, None, None)
    assert bench.worktrees() == []
    assert bench.branches() == []


async def test_the_result_tells_what_is_in_the_commit(bench: Bench) -> None:
    repository = bench.repository
    (repository / "old.txt").write_text("gone\n")
    (repository / "run.sh").write_bytes(b"#!/bin/sh\r\nexit 0")
    (repository / "run.sh").chmod(0o755)
    for command in (("add", "-A"), ("commit", "-q", "-m", "More")):
        identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
        subprocess.run(["git", "-C", str(repository), *identity, *command], check=True)
    wanted = [
        ("edit", {"edits": [{"path": "run.sh", "search": "exit 0", "replace": "exit 1"}]}),
        ("edit", {"edits": [{"path": "new/mul.py", "search": "", "replace": "def mul(a, b):\n    return a * b\n"}]}),
        ("delete_file", {"path": "old.txt"}),
        ("rename_file", {"path": "calc.py", "to": "adding.py"}),
    ]
    made = [ToolCall(id=str(at), name=name, arguments=json.dumps(what)) for at, (name, what) in enumerate(wanted)]
    result = await bench.run(
        ScriptedModel([ModelAnswer(tool_calls=tuple(made)), FINISH]),
        commit_author="Robot <robot@example.org>",
        commit_trailers={"Reviewed-By": "nobody"},
    )
    assert [(file.path, file.status, file.lines_added, file.lines_removed) for file in result.files] == [
        ("adding.py", "added", 2, 0),
        ("calc.py", "deleted", 0, 2),
        ("new/mul.py", "added", 2, 0),
        ("old.txt", "deleted", 0, 1),
        ("run.sh", "modified", 1, 1),
    ]
    mirror = next(path.parent for path in (bench.data_dir / "projects").rglob("HEAD"))

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", "--git-dir", str(mirror), *arguments], capture_output=True, check=True).stdout

    assert git("rev-parse", f"refs/heads/{result.branch}", f"{result.commit}^").decode().split() == [
        result.commit,
        result.base,
    ]
    assert git("show", "-s", "--format=%an <%ae> %cn <%ce>", result.commit).decode().strip() == (
        "Robot <robot@example.org> Robot <robot@example.org>"
    )
    message = git("show", "-s", "--format=%B", result.commit).decode().strip().splitlines()
    assert message[0] == "Mend add in calc.py"
    assert message[-3:] == ["Reviewed-By: nobody", "Task: t1", "Model: scripted"]
    assert git("cat-file", "blob", f"{result.commit}:run.sh") == b"#!/bin/sh\r\nexit 1"
    assert git("ls-tree", result.commit, "run.sh").startswith(b"100755")
    assert result.diff == git("diff", "--no-renames", "--binary", "--full-index", result.base, result.commit).decode()


PROGRAM = """
import asyncio, sys
from pathlib import Path
from redis.asyncio import Redis
from tests.integration.code_generation.test_real_repository import EDIT, Bench, Hanging

async def main():
    redis = Redis.from_url(sys.argv[1], decode_responses=True)
    model = Hanging(EDIT)
    working = asyncio.create_task(Bench(redis, Path(sys.argv[2]), Path(sys.argv[3])).run(model))
    await model.hangs.wait()
    await redis.rpush("hangs", "1")
    await working

asyncio.run(main())
"""


async def test_the_job_of_a_killed_worker_goes_on_without_paying_again(
    bench: Bench, corral_server: EmbeddedServer
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, corral_server.url, str(bench.data_dir), str(bench.repository)
    )
    try:
        assert await bench.redis.blpop("hangs", 60) is not None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()
    model = ScriptedModel([FINISH])
    result = await bench.run(model)
    assert (result.ended, result.resumed_steps) == (EndReason.FINISHED, 1)
    assert len(model.requests) == 1, "the edit was paid for by the worker that died"
    assert "+    return a + b" in result.diff
    assert await bench.commits.tip("p", "corral/t1") == result.commit
    assert bench.worktrees() == [], "the dead worker's worktree is gone too"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (".gitattributes", "* filter=evil diff=evil merge=evil\n"),
        (".gitmodules", '[submodule "x"]\n\tpath = x\n\turl = ext::sh -c "touch hacked"\n'),
        (".gitignore", "*\n"),
        (".gitattributes", "* working-tree-encoding=UTF-16\n"),
    ],
)
async def test_files_that_steer_git_run_nothing(bench: Bench, tmp_path: Path, path: str, text: str) -> None:
    """Filters and submodules that a repository brings along are inert."""
    for command in ("clean", "smudge", "process"):
        subprocess.run(
            ["git", "-C", str(bench.repository), "config", f"filter.evil.{command}", f"touch {tmp_path / 'hacked'}"],
            check=True,
        )
    arguments = json.dumps({"edits": [{"path": path, "search": "", "replace": text}]})
    create = ToolCall(id="0", name="edit", arguments=arguments)
    model = ScriptedModel([ModelAnswer(tool_calls=(create,)), EDIT, FINISH])
    result = await bench.run(model)
    assert result.ended is EndReason.FINISHED
    assert "calc.py" in {file.path for file in result.files}
    assert not list(tmp_path.rglob("hacked"))
