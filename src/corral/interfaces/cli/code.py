"""``corral index`` and ``corral search``: a project, searchable by meaning and by name."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from corral.client import Corral
from corral.errors import PayloadInvalid
from corral.interfaces.cli.following import ending_code, show_following
from corral.interfaces.cli.output import ExitCode, Output
from corral.interfaces.cli.parameters import DEFAULT_USER, JsonOption, ProjectArgument, TimeoutOption, UserOption
from corral.interfaces.cli.rendering import json_block
from corral.interfaces.cli.session import run
from corral.jobs.codebase_indexing.payload import CodebaseIndexing
from corral.jobs.job_type import JobType
from corral.queue.job import JobState

commands = typer.Typer()


@commands.command()
def index(
    context: typer.Context,
    project: ProjectArgument,
    *,
    full: Annotated[bool, typer.Option("--full", help="Build anew instead of from what changed.")] = False,
    branch: Annotated[str | None, typer.Option("--branch", help="Default: the project's.")] = None,
    user: UserOption = DEFAULT_USER,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it ends.")] = False,
    timeout: TimeoutOption = None,
    json: JsonOption = False,
) -> None:
    """Index a project: adds a codebase-indexing job, which a worker runs."""

    async def command(corral: Corral, output: Output) -> ExitCode | None:
        await corral.parts.projects.get(project)
        payload = CodebaseIndexing(project_id=project, user_id=user, full_reindex=full, branch=branch)
        job = await corral.add_job(JobType.CODEBASE_INDEXING, payload)
        if not watch:
            output.show(job, escape(job.id))
            return None
        ended = await show_following(corral, output, job.job_type, job.id, timeout=timeout)
        if ended.state is JobState.COMPLETED:
            output.note("indexed")
            if not output.json:
                output.out.print(json_block(ended.result))
        else:
            output.note(ended.error or "failed")
        return ending_code(ended)

    run(context, command, json=json)


@commands.command()
def search(
    context: typer.Context,
    project: ProjectArgument,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What to look for, in words or as a name.")],
    *,
    language: Annotated[
        list[str] | None, typer.Option("--language", "-l", help="Only this language. Repeat for several.")
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option("--path", help="Only files that fit: src/ is everything below, '*.ts' any depth. Repeat."),
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", "-k", help="Only function, method, class, … Repeat for several.")
    ] = None,
    branch: Annotated[
        str, typer.Option("--branch", help="One without an index is answered from the default branch's.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="At most this many.")] = 10,
    json: JsonOption = False,
) -> None:
    """Search an indexed project."""

    async def command(corral: Corral, output: Output) -> ExitCode | None:
        if not query.strip():
            raise PayloadInvalid(f"expected some text to look for, got {query!r}")
        await corral.parts.projects.get(project)
        from rich.syntax import Syntax  # noqa: PLC0415 - its highlighter's tables are for the few that show code

        hits = await corral.parts.code_search.search(
            project,
            query,
            limit=limit,
            branch=branch,
            languages=language or (),
            paths=path or (),
            kinds=kind or (),
        )
        if output.json:
            output.show(list(hits))
            return None
        for hit in hits:
            output.out.print(
                f"[bold]{escape(hit.path)}:{hit.start_line}[/]-{hit.end_line} {escape(hit.symbol)} "
                f"[dim]{escape(hit.why)}[/]"
            )
            output.out.print(
                Syntax(
                    hit.text,
                    Syntax.guess_lexer(hit.path, hit.text),
                    background_color="default",
                    start_line=hit.start_line,
                    line_numbers=True,
                )
            )
        if not hits:
            unknown = await corral.parts.code_search.unknown_filters(
                project, branch=branch, languages=language or (), kinds=kind or ()
            )
            output.note(f"nothing found: {unknown}" if unknown else "nothing found")
        return None

    run(context, command, json=json)
