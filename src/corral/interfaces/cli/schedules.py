"""``corral schedule``: jobs that are added by the clock."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.markup import escape

from corral.client import Corral
from corral.interfaces.cli.output import Output
from corral.interfaces.cli.parameters import JobTypeArgument, JsonOption, parse_duration, read_payload
from corral.interfaces.cli.rendering import moment, plain_table
from corral.interfaces.cli.session import known_job_type, run

commands = typer.Typer(help="Jobs that are added by the clock.", no_args_is_help=True)
ScheduleArgument = Annotated[str, typer.Argument(metavar="SCHEDULE", help="The schedule's id, chosen by you.")]


@commands.command("add")
def add(
    context: typer.Context,
    job_type: JobTypeArgument,
    schedule: ScheduleArgument,
    data: Annotated[
        str,
        typer.Option(
            "--data", "-d", metavar="JSON", help="The payload of each job; @FILE reads a file, - standard input."
        ),
    ],
    *,
    cron: Annotated[
        str | None, typer.Option("--cron", help="Five fields, as '0 3 * * *'; six with seconds first.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option("--time-zone", help="Of --cron, as Europe/Berlin; default UTC.")
    ] = None,
    every: Annotated[
        timedelta | None, typer.Option("--every", parser=parse_duration, metavar="DURATION", help="Instead of --cron.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Stop after this many jobs.")] = None,
    json: JsonOption = False,
) -> None:
    """Add a schedule, or change the one of this id."""
    if (cron is None) == (every is None):
        raise typer.BadParameter("expected one of --cron and --every")

    async def command(corral: Corral, output: Output) -> None:
        payload = read_payload(data)
        name = await known_job_type(corral, job_type)
        await corral.add_schedule(
            name, schedule, cron=cron, time_zone=time_zone, every=every, data=payload, limit=limit
        )
        output.show({"jobType": name, "id": schedule}, f"{escape(schedule)}: scheduled")

    run(context, command, json=json)


@commands.command("list")
def list_schedules(context: typer.Context, job_type: JobTypeArgument, *, json: JsonOption = False) -> None:
    """List a queue's schedules."""

    async def command(corral: Corral, output: Output) -> None:
        found = await corral.list_schedules(await known_job_type(corral, job_type))
        rows = [
            [
                escape(one.id),
                escape(
                    f"{one.cron} {one.time_zone or 'UTC'}"
                    if one.cron
                    else f"every {timedelta(milliseconds=one.every_ms or 0)}"
                ),
                moment(one.next_run_at),
                str(one.count),
            ]
            for one in found
        ]
        output.show(found, plain_table(["id", "when", "next", "jobs made"], rows) if rows else "no schedules")

    run(context, command, json=json)


@commands.command("remove")
def remove(
    context: typer.Context, job_type: JobTypeArgument, schedule: ScheduleArgument, *, json: JsonOption = False
) -> None:
    """Remove a schedule; jobs that it has made stay."""

    async def command(corral: Corral, output: Output) -> None:
        name = await known_job_type(corral, job_type)
        await corral.remove_schedule(name, schedule)
        output.show({"jobType": name, "id": schedule}, f"{escape(schedule)}: removed")

    run(context, command, json=json)
