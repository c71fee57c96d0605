"""Commands about whole queues: stats, pause, resume, clean, workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.markup import escape

from corral.client import Corral
from corral.interfaces.cli.output import Output
from corral.interfaces.cli.parameters import JobTypeArgument, JsonOption, parse_duration
from corral.interfaces.cli.rendering import plain_table, stats_table
from corral.interfaces.cli.session import known_job_type, run
from corral.queue.job import JobState
from corral.queue.status import QueueStats

commands = typer.Typer()


@commands.command()
def stats(
    context: typer.Context,
    job_types: Annotated[
        list[str] | None, typer.Argument(metavar="[JOB_TYPE]...", help="Which queues; default: all that are declared.")
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew until Ctrl-C.")] = False,
    interval: Annotated[
        timedelta,
        typer.Option(
            "--interval", parser=parse_duration, metavar="DURATION", help="How often, with --watch.", show_default="1s"
        ),
    ] = timedelta(seconds=1),
    json: JsonOption = False,
) -> None:
    """Count each queue's jobs by state."""

    async def command(corral: Corral, output: Output) -> None:
        names = [await known_job_type(corral, name) for name in job_types or sorted(corral.job_types)]

        async def count() -> list[QueueStats]:
            return list(await asyncio.gather(*(corral.get_queue_stats(name) for name in names)))

        if not watch:
            rows = await count()
            output.show([_as_counts(row) for row in rows], stats_table(rows))
            return
        in_place = output.out.is_terminal and not output.json
        with Live(console=output.out, auto_refresh=False) if in_place else nullcontext() as live:
            while True:
                rows = await count()
                if live is None:
                    output.show([_as_counts(row) for row in rows], stats_table(rows))
                else:
                    live.update(stats_table(rows), refresh=True)
                await asyncio.sleep(interval.total_seconds())

    run(context, command, json=json)


def _as_counts(row: QueueStats) -> dict[str, Any]:
    """The quick reference's fields first; ``total`` is computed and therefore no field of its own."""
    return {
        "jobType": row.job_type,
        "waiting": row.waiting,
        "active": row.active,
        "completed": row.completed,
        "failed": row.failed,
        "delayed": row.delayed,
        "total": row.total,
        "prioritized": row.prioritized,
        "waitingChildren": row.waiting_children,
        "paused": row.paused,
    }


@commands.command()
def workers(
    context: typer.Context,
    job_types: Annotated[list[str] | None, typer.Argument(metavar="[JOB_TYPE]...")] = None,
    *,
    json: JsonOption = False,
) -> None:
    """List the workers that are connected now, in whatever language."""

    async def command(corral: Corral, output: Output) -> None:
        names = [await known_job_type(corral, name) for name in job_types or sorted(corral.job_types)]
        found = [worker for name in names for worker in await corral.list_workers(name)]
        rows = [
            [escape(w.job_type), escape(w.name), escape(w.address), f"{w.age_s} s", escape(", ".join(w.active))]
            for w in found
        ]
        output.show(
            found, plain_table(["queue", "worker", "address", "up for", "active jobs"], rows) if rows else "no workers"
        )

    run(context, command, json=json)


@commands.command()
def users(context: typer.Context, job_type: JobTypeArgument, *, json: JsonOption = False) -> None:
    """List whose jobs wait and run in a queue, the longest line first."""

    async def command(corral: Corral, output: Output) -> None:
        found = await corral.get_queue_users(await known_job_type(corral, job_type))
        rows = [
            [escape(one.user_id or "(none)"), str(one.waiting), str(one.active), str(one.held) if one.held else ""]
            for one in found
        ]
        output.show(found, plain_table(["user", "waiting", "active", "held back"], rows) if rows else "no jobs")

    run(context, command, json=json)


def _pausing_command(name: str, act: Callable[[Corral, str], Awaitable[Any]], help_text: str, done: str) -> None:
    @commands.command(name, help=help_text)
    def _(context: typer.Context, job_type: JobTypeArgument, *, json: JsonOption = False) -> None:
        async def command(corral: Corral, output: Output) -> None:
            await act(corral, await known_job_type(corral, job_type))
            output.show({"jobType": job_type, "paused": name == "pause"}, f"{escape(job_type)}: {done}")

        run(context, command, json=json)


_pausing_command("pause", Corral.pause_queue, "Let no further job of a queue start.", "paused")
_pausing_command("resume", Corral.resume_queue, "Let a paused queue's jobs start again.", "resumed")


@commands.command()
def clean(
    context: typer.Context,
    job_type: JobTypeArgument,
    *,
    grace: Annotated[
        timedelta,
        typer.Option(
            "--grace",
            parser=parse_duration,
            metavar="DURATION",
            help="Keep jobs that ended within this time.",
            show_default="24h",
        ),
    ] = timedelta(hours=24),
    states: Annotated[
        list[JobState] | None, typer.Option("--state", help="Which jobs; default: completed and failed.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most this many; 0: all.")] = 0,
    json: JsonOption = False,
) -> None:
    """Remove old completed and failed jobs."""

    async def command(corral: Corral, output: Output) -> None:
        name = await known_job_type(corral, job_type)
        removed = await corral.clean_queue(
            name,
            round(grace.total_seconds() * 1000),
            states=tuple(states or (JobState.COMPLETED, JobState.FAILED)),
            limit=limit,
        )
        output.show(
            {"jobType": name, "removed": len(removed), "ids": removed}, f"{escape(name)}: {len(removed)} removed"
        )

    run(context, command, json=json)
