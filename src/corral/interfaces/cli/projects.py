"""``corral project``: the repositories that jobs work on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from corral.client import Corral
from corral.errors import GitFailed, PayloadInvalid, UnknownProject
from corral.interfaces.cli.output import Output
from corral.interfaces.cli.parameters import JsonOption, ProjectArgument
from corral.interfaces.cli.rendering import json_block, plain_table
from corral.interfaces.cli.session import run
from corral.projects import ForgeKind, Project
from corral.queue.definition import explain

# Whoever may not see a private repository is told that there is none.
_MAY_BE_PRIVATE = frozenset({"authentication_failed", "repository_not_found"})
_LATER = frozenset({"unreachable", "rate_limited", "timed_out"})

commands = typer.Typer(help="The repositories that jobs work on.", no_args_is_help=True)


@commands.command("add")
def add(
    context: typer.Context,
    project: ProjectArgument,
    repository: Annotated[str, typer.Argument(metavar="REPOSITORY", help="A path or an https address.")],
    *,
    branch: Annotated[
        str | None, typer.Option("--branch", help="The default branch; default: the repository's.")
    ] = None,
    forge: Annotated[
        ForgeKind | None,
        typer.Option("--forge", help="Where pull requests are opened; default: guessed from the address."),
    ] = None,
    forge_url: Annotated[str | None, typer.Option("--forge-url", help="Address of an own forge's API.")] = None,
    test_command: Annotated[str | None, typer.Option("--test-command", help="Runs the project's tests.")] = None,
    setup_command: Annotated[str | None, typer.Option("--setup-command", help="Installs its dependencies.")] = None,
    submodule: Annotated[
        list[str] | None,
        typer.Option(
            "--submodule",
            metavar="PROJECT",
            help="A registered project that is indexed as this one's submodule; whoever may search this one sees it. "
            "Repeat for several.",
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Change what is registered under this id: what is not named stays, and an empty value takes it away.",
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Register a repository."""
    # A relative path means something else to each worker.
    address = repository if "://" in repository else str(Path(repository).expanduser().resolve())

    async def command(corral: Corral, output: Output) -> None:
        given: dict[str, Any] = {
            "id": project,
            "repository": address,
            "forge": forge,
            "forge_url": forge_url,
            "test_command": test_command,
            "setup_command": setup_command,
            "submodules": None if submodule is None else tuple(filter(None, submodule)),
        }
        named = {name: value for name, value in given.items() if value is not None}
        known = await _registered(corral, project) if replace else None
        # Before anybody is asked about the address: it may hold a token, and be refused for it.
        asked = _checked(known, named).repository
        kept = known.default_branch if known is not None and known.repository == asked else None
        found = await _default_branch(corral, output, asked, branch, kept=kept)
        made = _checked(known, named if found is None else {**named, "default_branch": found})
        if replace:
            await corral.parts.replace_project(made)
        else:
            await corral.parts.projects.add(made)
        output.show(
            made, f"{escape(made.id)}: registered, {escape(made.repository)}, branch {escape(made.default_branch)}"
        )

    run(context, command, json=json)


async def _registered(corral: Corral, project: str) -> Project | None:
    try:
        return await corral.parts.projects.get(project)
    except UnknownProject:
        return None


def _checked(known: Project | None, named: dict[str, Any]) -> Project:
    try:
        return Project.model_validate(named) if known is None else known.changed(named)
    except ValidationError as error:
        raise PayloadInvalid(f"The project doesn't fit: {explain(error)}") from None


async def _default_branch(
    corral: Corral, output: Output, address: str, wanted: str | None, *, kept: str | None
) -> str | None:
    """The branch that is asked for when the repository has it, else the one it is registered with, else its own.

    Raises:
        PayloadInvalid: It is no git repository, or has no such branch.
    """
    try:
        found = await corral.parts.workspaces.inspect(address)
    except GitFailed as error:
        if error.reason not in _MAY_BE_PRIVATE | _LATER:
            raise PayloadInvalid(f"expected a git repository, got {address!r}: {error}") from error
        output.note(f"can't look into {address} now ({error.reason}); registered as it is given")
        return wanted or kept
    if not found.branches:
        raise PayloadInvalid(f"expected a repository with at least one commit, {address!r} is empty")
    if wanted is not None and wanted not in found.branches:
        raise PayloadInvalid(f"expected one of the branches {', '.join(found.branches[:10])}, got {wanted!r}")
    if wanted is None and kept in found.branches:
        return kept
    return wanted or found.default_branch or found.branches[0]


@commands.command("list")
def list_projects(context: typer.Context, *, json: JsonOption = False) -> None:
    """List the registered projects."""

    async def command(corral: Corral, output: Output) -> None:
        found = await corral.parts.projects.list()
        rows = [[escape(one.id), escape(one.repository), escape(one.default_branch), str(one.forge)] for one in found]
        output.show(found, plain_table(["id", "repository", "branch", "forge"], rows) if rows else "no projects")

    run(context, command, json=json)


@commands.command("show")
def show(context: typer.Context, project: ProjectArgument, *, json: JsonOption = False) -> None:
    """Show what is registered under an id."""

    async def command(corral: Corral, output: Output) -> None:
        found = await corral.parts.projects.get(project)
        output.show(found, json_block(found))

    run(context, command, json=json)


@commands.command("remove")
def remove(context: typer.Context, project: ProjectArgument, *, json: JsonOption = False) -> None:
    """Forget a project and its indexes; its repository stays as it is."""

    async def command(corral: Corral, output: Output) -> None:
        await corral.parts.remove_project(project)
        output.show({"id": project}, f"{escape(project)}: removed")

    run(context, command, json=json)
