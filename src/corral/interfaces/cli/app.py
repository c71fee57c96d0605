"""The command line, put together."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from corral.interfaces.cli import (
    code,
    demo,
    doctor,
    jobs,
    mcp,
    pipelines,
    projects,
    pulls,
    queues,
    schedules,
    serving,
    tokens,
)
from corral.interfaces.cli.session import Invocation

app = typer.Typer(
    name="corral",
    help="Background jobs for AI coding platforms, on Redis in BullMQ's own format.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_RUN, _JOBS, _QUEUES, _CODE, _ACCESS = "Run", "Jobs", "Queues", "Projects and code", "Access"
for part, panel in (
    (serving, _RUN),
    (demo, _RUN),
    (doctor, _RUN),
    (jobs, _JOBS),
    (queues, _QUEUES),
    (code, _CODE),
    (mcp, _CODE),
):
    for command in part.commands.registered_commands:
        command.rich_help_panel = panel
    app.add_typer(part.commands)
app.add_typer(schedules.commands, name="schedule", rich_help_panel=_QUEUES)
app.add_typer(pipelines.commands, name="pipeline", rich_help_panel=_CODE)
app.add_typer(projects.commands, name="project", rich_help_panel=_CODE)
app.add_typer(pulls.commands, name="pr", rich_help_panel=_CODE)
app.add_typer(tokens.commands, name="token", rich_help_panel=_ACCESS)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - Typer calls it so
    if wanted:
        typer.echo(version("corral"))
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    app_path: Annotated[
        str | None,
        typer.Option(
            "--app", envvar="CORRAL_APP", metavar="MODULE:NAME", help="Your own Corral, with your own job types."
        ),
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error came from.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Keep what was said before the command's name."""
    context.obj = Invocation(app=app_path, debug=debug)


def run() -> None:
    """Run it; the process's exit code is that of ``output.ExitCode``."""
    app()
