"""The command: prepares, runs the pipeline as jobs through workers in this process, and shows what came of it."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from time import monotonic
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.spinner import Spinner
from rich.text import Text

from corral import pipeline
from corral.adapters.git import Git
from corral.client import Corral
from corral.errors import CorralError
from corral.interfaces.cli import parts
from corral.interfaces.cli.demo.repositories import (
    DemoRepository,
    DemoTask,
    copy_of,
    make_sample,
    sample_folder,
    sample_task,
)
from corral.interfaces.cli.following import Update, ending_code, follow, stage_of
from corral.interfaces.cli.output import ExitCode, Output
from corral.interfaces.cli.parameters import JsonOption
from corral.interfaces.cli.pipelines import show_pipeline, steps_table
from corral.interfaces.cli.session import Invocation, guarded, leave
from corral.jobs.job_type import JobType
from corral.pipeline import PIPELINE, Pipeline, StepState, reported_steps
from corral.projects import Project
from corral.queue.job import JobState
from corral.queue.status import JobStatus
from corral.settings import Settings, read_settings

commands = typer.Typer()

_STOP_TIMEOUT = timedelta(seconds=10)
_LOG_LINES = 12


@commands.command()
def demo(
    context: typer.Context,
    *,
    repo: Annotated[
        str | None,
        typer.Option("--repo", metavar="PATH_OR_URL", help="A git repository; default: a small sample project."),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", help="What to change; default: a task for the sample project.")
    ] = None,
    test_command: Annotated[
        str | None, typer.Option("--test-command", help="Runs the tests; default: guessed.")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option("--candidates", min=1, max=10, help="Tries until the tests pass; default: 3.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run the whole way on this machine: index, generate, test, open a pull request.

    Works on a copy; your repository stays as it is. The exit code is 0 when a pull request was opened.
    """
    invocation: Invocation = context.obj or Invocation()
    if repo is not None and prompt is None:
        raise typer.BadParameter("expected --prompt together with --repo: say what to change in it")

    async def command(output: Output) -> ExitCode:
        return await run_demo(output, repo=repo, prompt=prompt, test_command=test_command, candidates=candidates)

    leave(guarded(command, Output(as_json_lines=json), debug=invocation.debug))


async def run_demo(
    output: Output, *, repo: str | None, prompt: str | None, test_command: str | None, candidates: int | None
) -> ExitCode:
    """Prepare, run, show.

    Raises:
        CorralError: Something needed is missing; nothing was started then.
    """
    begun = monotonic()
    settings = read_settings()
    async with _step(output, "sandbox") as say:
        say(await parts.try_sandbox(settings))
    async with _step(output, "repository") as say:
        repository, task = await _prepare(settings, repo, prompt)
        say(str(repository.path))
    async with _step(output, "model") as say:
        say(await parts.prepare_model(settings, say))

    corral = Corral(settings=settings)
    pipeline.register(corral)
    async with corral:
        async with _step(output, "redis") as say:
            project = Project(
                id=repository.project_id,
                repository=str(repository.path),
                default_branch=repository.default_branch,
                test_command=test_command or repository.test_command,
            )
            await corral.parts.replace_project(project)
            say("embedded Valkey" if settings.redis_url is None else "REDIS_URL")
        asked = Pipeline(
            task_id=f"demo-{secrets.token_hex(4)}",
            user_id="demo",
            project_id=project.id,
            prompt=task.prompt,
            files=task.files,
            candidates=candidates or task.candidates,
            max_repairs=task.max_repairs,
        )
        output.note(f"\n{asked.prompt.strip()}\n")
        ended = await _through_workers(corral, output, asked)
    if output.json:
        output.show(ended)
    show_pipeline(output, ended)
    if ended.state is JobState.COMPLETED:
        output.note(f"\nA pull request was opened, {monotonic() - begun:.0f} s after the start.")
    else:
        output.note(
            f"\nNo pull request was opened ({monotonic() - begun:.0f} s). "
            f"The job stays for a look: corral pipeline status {ended.id}"
        )
    return ending_code(ended)


async def _prepare(settings: Settings, repo: str | None, prompt: str | None) -> tuple[DemoRepository, DemoTask]:
    folder, git = settings.data_dir / "demo", Git()
    if repo is not None and prompt is not None:
        return await copy_of(repo, folder, git), DemoTask(prompt)
    source = sample_folder()
    task = sample_task(source) if prompt is None else DemoTask(prompt)
    return await make_sample(source, folder, git), task


async def _through_workers(corral: Corral, output: Output, asked: Pipeline) -> JobStatus:
    """Run one pipeline with workers of this process; told to stop, it leaves no job behind."""
    workers = await corral.start_workers([*JobType, PIPELINE])
    try:
        job = await corral.add_job(PIPELINE, asked)
        try:
            return await _watch(corral, output, job.id)
        except asyncio.CancelledError:
            await asyncio.shield(corral.cancel_job(PIPELINE, job.id, reason="interrupted", by="demo"))
            raise
    finally:
        await workers.stop(timeout=_STOP_TIMEOUT)


async def _watch(corral: Corral, output: Output, job_id: str) -> JobStatus:
    """Show the steps as they go, and what the running one says in its log."""
    view = _View(output)
    with view:
        async with aclosing(follow(corral, PIPELINE, job_id)) as updates:
            async for update in updates:
                view.show(update, await _step_log(corral, update.status))
                status = update.status
    return status


async def _step_log(corral: Corral, status: JobStatus) -> list[str]:
    """The last lines that the running step wrote."""
    running = next((step for step in reported_steps(status) if step.state is StepState.RUNNING), None)
    if running is None:
        return []
    try:
        head = await corral.get_job_logs(running.job_type, running.job_id, limit=1)
        page = await corral.get_job_logs(
            running.job_type, running.job_id, offset=max(0, head.total - _LOG_LINES), limit=_LOG_LINES
        )
    except CorralError:
        return []  # it is a look at the side; the job itself tells what matters
    return list(page.lines)


class _View:
    """The live picture: steps, bar, log tail; plain lines where there is no terminal; nothing for programs."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=output.err,
        )
        self._task = self._progress.add_task("", total=100)
        self._live = (
            Live(console=output.err, transient=True, refresh_per_second=8)
            if output.err.is_terminal and not output.json
            else None
        )
        self._told = ""

    def __enter__(self) -> None:
        if self._live:
            self._live.start()

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, update: Update, log: list[str]) -> None:
        """Show what is new."""
        stage = stage_of(update.status)
        if self._live:
            self._progress.update(self._task, completed=update.status.progress, description=escape(stage))
            tail = Text("\n".join(log), style="dim", overflow="ellipsis", no_wrap=True)
            self._live.update(Group(steps_table(reported_steps(update.status)), self._progress, tail))
        elif stage != self._told:
            self._told = stage
            self._output.note(f"{update.status.progress:3.0f} % {stage}")


@asynccontextmanager
async def _step(output: Output, name: str) -> AsyncIterator[Callable[[str], None]]:
    """Tell one step of the preparation, with what it says last and how long it took."""
    begun = monotonic()
    said = ""
    live = Live(console=output.err, transient=True) if output.err.is_terminal and not output.json else None

    def say(text: str) -> None:
        nonlocal said
        said = text
        if live:
            live.update(Spinner("dots", text=Text(f"{name}: {text}")))

    if live:
        live.start()
        say("…")
    try:
        yield say
    finally:
        if live:
            live.stop()
    output.note(f"{name:<11} {said} ({monotonic() - begun:.1f} s)")
