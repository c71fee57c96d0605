"""Tasks with hidden tests, done by whatever model is configured: ``python -m benchmarks.codegen [--model NAME]``.

Uses the same handler, worktrees and sandbox as a worker. Prints what was solved, what it cost and how long it took.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
import tomllib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from corral.adapters.llm.choose import open_model
from corral.adapters.llm.port import LanguageModel, ModelAnswer, ModelRequest, ModelTraits, OnText
from corral.adapters.sandbox.factory import make_sandbox
from corral.adapters.workspace import Workspaces
from corral.commits import CommitStore
from corral.errors import CorralError
from corral.jobs.code_generation.handler import CodeGenerationHandler
from corral.jobs.code_generation.payload import CodeGeneration
from corral.jobs.code_generation.result import CodeGenerationResult
from corral.jobs.test_execution.runner import TestRunner
from corral.projects import Project, ProjectStore
from corral.settings import Settings
from corral.testing import EmbeddedServer, job_for

SUITES = {
    "known": Path(__file__).with_name("tasks.toml"),
    "held-out": Path(__file__).with_name("held_out.toml"),
}
"""The workflows were worked out on the first; the second says what that is worth elsewhere."""


class Transcribed:
    """A model whose questions and answers are written to a folder, one file for each question."""

    def __init__(self, model: LanguageModel, folder: Path) -> None:
        self._model = model
        self._folder = folder
        self.task = ""
        self._asked = 0

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def traits(self) -> ModelTraits:
        return self._model.traits

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        self._asked += 1
        answer = await self._model.complete(request, on_text=on_text)
        said = [f"# {request.temperature=} {request.seed=} {request.max_tokens=}", f"## system\n{request.system}"]
        said += [f"## {message.role}\n{message.text}{message.tool_calls or ''}" for message in request.messages]
        said += [f"## answer ({answer.finish}, {answer.usage.tokens} tokens)\n{answer.text}{answer.tool_calls or ''}\n"]
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{self.task}-{self._asked:02}.md").write_text("\n\n".join(said), encoding="utf-8")
        return answer

    async def close(self) -> None:
        await self._model.close()


@dataclass
class Bench:
    """The parts of a worker, over a throw-away server and folder."""

    settings: Settings
    folder: Path
    projects: ProjectStore
    workspaces: Workspaces
    tests: TestRunner
    model: LanguageModel
    redis: Any

    async def run(self, task: dict[str, Any], *, candidates: int, repairs: int) -> CodeGenerationResult:
        async def opened(_: str) -> LanguageModel:
            return self.model

        handler = CodeGenerationHandler(
            settings=self.settings,
            projects=self.projects,
            workspaces=self.workspaces,
            open_model=opened,
            tests=self.tests,
        )
        data = CodeGeneration(
            task_id=task["name"], user_id="bench", project_id=task["name"], prompt=task["prompt"],
            candidates=candidates, max_repairs=repairs,
        )  # fmt: skip
        return await handler(job_for(data, job_type="code-generation"))

    async def solved(self, task: dict[str, Any], commit: str) -> bool:
        """Whether the hidden tests pass at the commit."""
        project = await self.projects.get(task["name"])
        async with self.workspaces.checkout(project, commit) as workspace:
            _write(workspace.path, task["hidden"])
            report = await self.tests.run(
                workspace.path, command=task["test_command"], commit=commit, project_id=project.id,
                timeout=timedelta(minutes=1),
            )  # fmt: skip
        return report.passed


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.lstrip("\n"), encoding="utf-8")


def _repository(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True)
    _write(folder, files)
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    identity = ("-c", "user.name=Bench", "-c", "user.email=bench@example.com")
    for command in (("init", "-q", "-b", "main"), ("add", "-A"), (*identity, "commit", "-q", "-m", "Begin")):
        subprocess.run(["git", "-C", str(folder), *command], env=environment, check=True)
    return folder


async def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--model", help="default: CORRAL_MODEL")
    options.add_argument("--candidates", type=int, default=3)
    options.add_argument("--repairs", type=int, default=1)
    options.add_argument("--suite", choices=SUITES, default="known")
    options.add_argument("--tasks", nargs="*", help="only these")
    options.add_argument("--transcripts", type=Path, help="folder for what the model was asked and what it said")
    given = options.parse_args()
    kept = Settings()
    name = given.model or kept.model
    tasks = [
        task
        for task in tomllib.loads(SUITES[given.suite].read_text(encoding="utf-8"))["task"]
        if not given.tasks or task["name"] in given.tasks
    ]
    print(
        f"{name}, {given.suite} tasks\n{'task':16}{'ended':14}{'hidden':>8}{'requests':>10}{'tokens':>8}"
        f"{'USD':>9}{'seconds':>9}"
    )
    solved = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, EmbeddedServer() as server:
        folder = Path(scratch)
        settings = kept.model_copy(update={"data_dir": folder / "data", "model": name})
        redis = Redis.from_url(server.url, decode_responses=True)
        model: LanguageModel = await asyncio.to_thread(open_model, name, kept)
        if given.transcripts is not None:
            model = Transcribed(model, given.transcripts)
        bench = Bench(
            settings=settings,
            folder=folder,
            projects=ProjectStore(redis, prefix="corral:bull"),
            workspaces=Workspaces(data_dir=settings.data_dir, commits=CommitStore(redis)),
            tests=TestRunner(make_sandbox(settings), data_dir=settings.data_dir),
            model=model,
            redis=redis,
        )
        try:
            for task in tasks:
                repository = _repository(folder / "repositories" / task["name"], task["files"])
                await bench.projects.add(
                    Project(id=task["name"], repository=str(repository), test_command=task["test_command"])
                )
                if isinstance(model, Transcribed):
                    model.task = task["name"]
                began = time.monotonic()
                try:
                    result = await bench.run(task, candidates=given.candidates, repairs=given.repairs)
                except CorralError as error:
                    print(f"{task['name']:16}failed: {error}")
                    continue
                good = result.commit is not None and await bench.solved(task, result.commit)
                solved += good
                cost = "?" if result.cost_usd is None else f"{result.cost_usd:.4f}"
                tokens = result.tokens.input + result.tokens.output
                print(
                    f"{task['name']:16}{result.ended:14}{'pass' if good else 'fail':>8}{result.requests:>10}{tokens:>8}"
                    f"{cost:>9}{time.monotonic() - began:>9.1f}",
                    flush=True,
                )
        finally:
            await bench.tests.close()
            await model.close()
            await redis.aclose()
    print(f"solved {solved} of {len(tasks)}")


if __name__ == "__main__":
    asyncio.run(main())
