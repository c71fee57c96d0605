"""Commands about one job: add, status, list, watch, logs, cancel, retry, promote, remove."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.markup import escape

from corral.client import Corral
from corral.interfaces.cli.following import ending_code, show_following
from corral.interfaces.cli.output import ExitCode, Output, foreign
from corral.interfaces.cli.parameters import (
    JobIdArgument,
    JobTypeArgument,
    JsonOption,
    PriorityOption,
    TimeoutOption,
    parse_duration,
    parse_instant,
    read_payload,
)
from corral.interfaces.cli.rendering import job_panel, moment, plain_table, result_block, state_text
from corral.interfaces.cli.session import known_job_type, run
from corral.queue.job import JobState

commands = typer.Typer()


@commands.command()
def add(
    context: typer.Context,
    job_type: JobTypeArgument,
    data: Annotated[
        str,
        typer.Option("--data", "-d", metavar="JSON", help="The payload; @FILE reads a file, - reads standard input."),
    ],
    *,
    priority: PriorityOption = None,
    delay: Annotated[
        timedelta | None,
        typer.Option("--delay", parser=parse_duration, metavar="DURATION", help="Wait at least this long first."),
    ] = None,
    run_at: Annotated[
        datetime | None,
        typer.Option("--at", parser=parse_instant, metavar="INSTANT", help="Start at this time at the earliest."),
    ] = None,
    attempts: Annotated[int | None, typer.Option("--attempts", min=1, help="Tries in all.")] = None,
    job_id: Annotated[
        str | None, typer.Option("--id", help="An id of your own; adding it twice makes one job.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it ends.")] = False,
    json: JsonOption = False,
) -> None:
    """Add a job; prints its id.

    corral add code-generation -d '{"taskId": "1", "userId": "me", "projectId": "demo", "prompt": "…"}' --watch
    """

    async def command(corral: Corral, output: Output) -> ExitCode | None:
        options: dict[str, Any] = {
            "priority": priority,
            "delay": delay,
            "run_at": run_at,
            "attempts": attempts,
            "job_id": job_id,
        }
        given = {name: value for name, value in options.items() if value is not None}
        payload = read_payload(data)
        job = await corral.add_job(await known_job_type(corral, job_type), payload, **given)
        if not watch:
            output.show(job, foreign(job.id))
            return None
        output.note(f"{job.job_type} {job.id}")
        return await _watch(corral, output, job.job_type, job.id, None)

    run(context, command, json=json)


@commands.command()
def status(
    context: typer.Context, job_type: JobTypeArgument, job_id: JobIdArgument, *, json: JsonOption = False
) -> None:
    """Show one job: state, progress, attempts, payload, result or error."""

    async def command(corral: Corral, output: Output) -> None:
        found = await corral.get_job_status(await known_job_type(corral, job_type), job_id)
        output.show(found, job_panel(found))

    run(context, command, json=json)


@commands.command("list")
def list_jobs(
    context: typer.Context,
    job_type: JobTypeArgument,
    *,
    states: Annotated[
        list[JobState] | None, typer.Option("--state", help="Only jobs in this state; may be given again.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="At most this many.")] = 20,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Skip this many.")] = 0,
    json: JsonOption = False,
) -> None:
    """List a queue's jobs, newest first."""

    async def command(corral: Corral, output: Output) -> None:
        name = await known_job_type(corral, job_type)
        found = await corral.list_jobs(name, states or None, offset=offset, limit=limit)
        rows: list[list[RenderableType]] = [
            [
                foreign(job.id),
                state_text(job.state),
                f"{job.progress:.0f} %",
                foreign(job.user_id or "-"),
                moment(job.created_at),
                foreign((job.error or "")[:80]),
            ]
            for job in found
        ]
        output.show(
            found, plain_table(["id", "state", "progress", "user", "created", "error"], rows) if rows else "no jobs"
        )

    run(context, command, json=json)


@commands.command()
def watch(
    context: typer.Context,
    job_type: JobTypeArgument,
    job_id: JobIdArgument,
    *,
    timeout: TimeoutOption = None,
    json: JsonOption = False,
) -> None:
    """Follow a job until it ends: progress bar and log tail. The exit code tells how it ended."""

    async def command(corral: Corral, output: Output) -> ExitCode:
        return await _watch(corral, output, await known_job_type(corral, job_type), job_id, timeout)

    run(context, command, json=json)


async def _watch(corral: Corral, output: Output, job_type: str, job_id: str, timeout: timedelta | None) -> ExitCode:
    ended = await show_following(corral, output, job_type, job_id, timeout=timeout)
    if not output.json:
        if ended.state is JobState.COMPLETED:
            output.out.print(result_block(ended.result))
        else:
            output.err.print(f"[red]{foreign(ended.error or 'failed')}[/]")
    return ending_code(ended)


@commands.command()
def logs(
    context: typer.Context,
    job_type: JobTypeArgument,
    job_id: JobIdArgument,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    offset: Annotated[int, typer.Option("--offset", min=0, help="Skip this many lines.")] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most this many lines.")] = 1000,
    json: JsonOption = False,
) -> None:
    """Print a job's log."""

    async def command(corral: Corral, output: Output) -> ExitCode | None:
        name = await known_job_type(corral, job_type)
        if follow:
            return await _watch(corral, output, name, job_id, None)
        await corral.get_job_status(name, job_id)  # a job without a log and no job are not the same
        page = await corral.get_job_logs(name, job_id, offset=offset, limit=limit)
        output.show(page, *(foreign(line) for line in page.lines))
        if offset + len(page.lines) < page.total:
            output.note(f"… {page.total - offset - len(page.lines)} more lines (--offset {offset + len(page.lines)})")
        return None

    run(context, command, json=json)


@commands.command()
def cancel(
    context: typer.Context,
    job_type: JobTypeArgument,
    job_id: JobIdArgument,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Recorded with the job.")] = "",
    json: JsonOption = False,
) -> None:
    """Stop a job: a waiting one is removed, an active one is told to stop and fails as cancelled."""

    async def command(corral: Corral, output: Output) -> None:
        did = await corral.cancel_job(await known_job_type(corral, job_type), job_id, reason=reason, by="cli")
        output.show({"jobType": job_type, "id": job_id, "cancellation": did}, f"{escape(job_id)}: {did or 'cancelled'}")

    run(context, command, json=json)


def _one_job_command(name: str, act: Callable[[Corral, str, str], Awaitable[Any]], help_text: str, done: str) -> None:
    @commands.command(name, help=help_text)
    def _(
        context: typer.Context, job_type: JobTypeArgument, job_id: JobIdArgument, *, json: JsonOption = False
    ) -> None:
        async def command(corral: Corral, output: Output) -> None:
            await act(corral, await known_job_type(corral, job_type), job_id)
            output.show({"jobType": job_type, "id": job_id, "done": done}, f"{escape(job_id)}: {done}")

        run(context, command, json=json)


_one_job_command("retry", Corral.retry_job, "Run a failed (or completed) job again.", "will run again")
_one_job_command("promote", Corral.promote_job, "Let a delayed job run now.", "ready to run")
_one_job_command("remove", Corral.remove_job, "Remove a job that is not active, with its log.", "removed")
