"""``corral pipeline``: a prompt to a pull request."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from corral.client import Corral
from corral.interfaces.cli.following import ending_code, show_following
from corral.interfaces.cli.output import ExitCode, Output
from corral.interfaces.cli.parameters import (
    DEFAULT_USER,
    JobIdArgument,
    JsonOption,
    PriorityOption,
    ProjectArgument,
    TimeoutOption,
    UserOption,
)
from corral.interfaces.cli.rendering import diff_block, job_panel, test_report
from corral.interfaces.cli.session import run
from corral.pipeline import PIPELINE, PipelineResult, Step, StepState, reported_steps
from corral.queue.job import JobState
from corral.queue.status import JobStatus

commands = typer.Typer(help="A prompt to a pull request.", no_args_is_help=True)

_STEP_STYLES = {
    StepState.COMPLETED: "green",
    StepState.FAILED: "red",
    StepState.RUNNING: "cyan",
    StepState.SKIPPED: "yellow",
}


@commands.command("start")
def start(
    context: typer.Context,
    project: ProjectArgument,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to change.")],
    *,
    task: Annotated[
        str | None, typer.Option("--task", help="The platform's id of the task; default: a new one.")
    ] = None,
    user: UserOption = DEFAULT_USER,
    branch: Annotated[
        str | None, typer.Option("--branch", help="Start from and merge into it; default: the project's.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Instead of the workers' own.")] = None,
    test_command: Annotated[str | None, typer.Option("--test-command", help="Instead of the project's own.")] = None,
    candidates: Annotated[int, typer.Option("--candidates", min=1, max=10, help="Tries until the tests pass.")] = 3,
    draft: Annotated[bool, typer.Option("--draft", help="Open a draft even when tests fail.")] = False,
    priority: PriorityOption = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it ends.")] = False,
    timeout: TimeoutOption = None,
    json: JsonOption = False,
) -> None:
    """Start a pipeline; prints its id. Workers of all five queues must run."""

    async def command(corral: Corral, output: Output) -> ExitCode | None:
        await corral.parts.projects.get(project)
        payload: dict[str, Any] = {
            "task_id": task or f"cli-{secrets.token_hex(4)}",
            "user_id": user,
            "project_id": project,
            "prompt": prompt,
            "base_branch": branch,
            "model": model,
            "test_command": test_command,
            "candidates": candidates,
            "when_tests_fail": "draft" if draft else "stop",
        }
        options: dict[str, Any] = {} if priority is None else {"priority": priority}
        job = await corral.add_job(
            PIPELINE, {name: value for name, value in payload.items() if value is not None}, **options
        )
        if not watch:
            output.show(job, escape(job.id))
            return None
        ended = await show_following(corral, output, PIPELINE, job.id, timeout=timeout)
        show_pipeline(output, ended)
        return ending_code(ended)

    run(context, command, json=json)


@commands.command("status")
def status(context: typer.Context, job_id: JobIdArgument, *, json: JsonOption = False) -> None:
    """Show a pipeline: its steps, and what came of it."""

    async def command(corral: Corral, output: Output) -> None:
        found = await corral.get_job_status(PIPELINE, job_id)
        if output.json:
            output.show(found)
        else:
            show_pipeline(output, found)

    run(context, command, json=json)


@commands.command("cancel")
def cancel(
    context: typer.Context,
    job_id: JobIdArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Recorded with the job.")] = "",
    json: JsonOption = False,
) -> None:
    """Stop a pipeline and the step that it is at."""

    async def command(corral: Corral, output: Output) -> None:
        did = await corral.cancel_job(PIPELINE, job_id, reason=reason, by="cli")
        output.show({"jobType": PIPELINE, "id": job_id, "cancellation": did}, f"{escape(job_id)}: {did}")

    run(context, command, json=json)


def show_pipeline(output: Output, status: JobStatus) -> None:
    """Show a pipeline for people; what failed is said as plainly as what worked."""
    if output.json:
        return
    result = status.result
    if status.state is JobState.COMPLETED and isinstance(result, PipelineResult):
        output.out.print(result_parts(result))
        return
    output.out.print(steps_table(reported_steps(status)))
    if status.state is JobState.FAILED:
        output.err.print(f"[bold red]failed:[/] {escape(status.error or 'no reason was recorded')}")
    elif status.state is not JobState.COMPLETED:
        output.out.print(job_panel(status))


def steps_table(steps: list[Step] | tuple[Step, ...]) -> RenderableType:
    """The steps and how long each took."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    table.add_column()
    table.add_column()
    table.add_column(justify="right")
    table.add_column(overflow="fold", style="red")
    for step in steps:
        table.add_row(
            str(step.job_type),
            Text(step.state, style=_STEP_STYLES.get(step.state, "dim")),
            f"{step.seconds:.1f} s",
            escape(step.error or ""),
        )
    return table


def result_parts(result: PipelineResult) -> RenderableType:
    """A finished pipeline: the diff, the tests, the pull request, the timings."""

    def heading(text: str) -> Text:
        return Text(f"\n{text}", style="bold")

    parts: list[RenderableType] = [heading("The change"), diff_block(result.generation.diff)]
    parts.append(heading("The tests"))
    parts.append(
        test_report(result.tests) if result.tests else Text("not run: the project has no test command", style="yellow")
    )
    request = result.pull_request
    parts += [
        heading("The pull request"),
        Text.assemble(
            (f"#{request.number} ", "bold"),
            (request.url, "cyan"),
            f"\n{request.source_branch} into {request.target_branch}, {request.state}, "
            f"{request.files_changed} files, +{request.lines_added} -{request.lines_removed}"
            + ("" if request.created else " (found, opened earlier)"),
        ),
        heading(f"The time: {result.seconds:.1f} s"),
        steps_table(result.steps),
    ]
    return Group(*parts)
