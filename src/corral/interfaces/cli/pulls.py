"""``corral pr``: the pull requests of projects on the local forge."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from pydantic.alias_generators import to_camel
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from corral.adapters.forge.local import LocalPullRequest
from corral.adapters.forge.port import PullRequestState
from corral.client import Corral
from corral.interfaces.cli.output import Output, without_controls
from corral.interfaces.cli.parameters import JsonOption, ProjectArgument
from corral.interfaces.cli.rendering import diff_block, moment, plain_table
from corral.interfaces.cli.session import run
from corral.interfaces.pull_requests import PullRequests, Review

commands = typer.Typer(help="Pull requests of projects on the local forge.", no_args_is_help=True)

_STYLES = {PullRequestState.OPEN: "green", PullRequestState.MERGED: "magenta", PullRequestState.CLOSED: "red"}
NumberArgument = Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="The pull request's number.")]


@commands.command("list")
def list_pull_requests(
    context: typer.Context,
    project: ProjectArgument,
    *,
    state: Annotated[PullRequestState | None, typer.Option("--state", help="Only those; default: all.")] = None,
    json: JsonOption = False,
) -> None:
    """List a project's pull requests, newest first."""

    async def command(corral: Corral, output: Output) -> None:
        found = await (await PullRequests.of(corral, project)).list(state=state)
        rows: list[list[RenderableType]] = [
            [
                str(one.number),
                _state(one),
                Text(without_controls(one.title)),
                _branches(one),
                moment(one.updated_at),
            ]
            for one in found
        ]
        table = plain_table(["number", "state", "title", "branches", "updated"], rows)
        output.show([_document(one) for one in found], table if rows else "no pull requests")

    run(context, command, json=json)


@commands.command("show")
def show(context: typer.Context, project: ProjectArgument, number: NumberArgument, *, json: JsonOption = False) -> None:
    """Show a pull request: description, tests, conflicts, files, diff."""

    async def command(corral: Corral, output: Output) -> None:
        review = await (await PullRequests.of(corral, project)).review(number)
        document = {
            **_document(review.pull_request),
            "testSummary": review.test_summary,
            "files": list(review.files),
            "diff": review.diff,
        }
        output.show(document, *_rendered(review))

    run(context, command, json=json)


@commands.command("merge")
def merge(
    context: typer.Context, project: ProjectArgument, number: NumberArgument, *, json: JsonOption = False
) -> None:
    """Merge a pull request into its target branch, with a merge commit; conflicts are named and change nothing."""

    async def command(corral: Corral, output: Output) -> None:
        done = await (await PullRequests.of(corral, project)).merge(number)
        said = f"#{done.number}: merged into {done.target_branch} as {(done.merge_commit or '')[:12]}"
        output.show(_document(done), escape(said))

    run(context, command, json=json)


@commands.command("close")
def close(
    context: typer.Context, project: ProjectArgument, number: NumberArgument, *, json: JsonOption = False
) -> None:
    """Close a pull request without merging it; its branch stays."""

    async def command(corral: Corral, output: Output) -> None:
        done = await (await PullRequests.of(corral, project)).close(number)
        output.show(_document(done), f"#{done.number}: closed")

    run(context, command, json=json)


def _document(pull_request: LocalPullRequest) -> dict[str, Any]:
    """As the HTTP API spells it."""
    return {to_camel(name): value for name, value in pull_request.model_dump(mode="json").items()}


def _state(pull_request: LocalPullRequest) -> Text:
    text = Text(pull_request.state.value, style=_STYLES[pull_request.state])
    return text.append(" (draft)", style="dim") if pull_request.draft else text


def _branches(pull_request: LocalPullRequest) -> Text:
    return Text(without_controls(f"{pull_request.source_branch} → {pull_request.target_branch}"))


def _markdown(text: str) -> RenderableType:
    from rich.markdown import Markdown  # noqa: PLC0415 - only these two paragraphs of the whole command line want it

    # Links are written out: where one leads must be seen.
    return Markdown(without_controls(text), hyperlinks=False)


def _rendered(review: Review) -> list[RenderableType]:
    shown = review.pull_request
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    facts.add_row("state", _state(shown))
    facts.add_row("branches", _branches(shown))
    facts.add_row("opened", moment(shown.created_at))
    if shown.merged_at is not None:
        facts.add_row("merged", f"{moment(shown.merged_at)} as {(shown.merge_commit or '')[:12]}")
    for name, people in (("labels", shown.labels), ("reviewers", shown.reviewers), ("assignees", shown.assignees)):
        if people:
            facts.add_row(name, Text(without_controls(", ".join(people))))
    parts: list[RenderableType] = [Text(f"#{shown.number} {without_controls(shown.title)}", style="bold"), facts]
    if review.description:
        parts += ["", _markdown(review.description)]
    if review.test_summary:
        parts += ["", Text("tests", style="dim"), _markdown(review.test_summary)]
    if shown.conflicts:
        parts += ["", Text("can't be merged, these files conflict:", style="bold red")]
        parts += [Text(f"  {without_controls(path)}", style="red") for path in shown.conflicts]
    rows: list[list[RenderableType]] = [
        [
            Text(without_controls(one.path)),
            str(one.status),
            "binary" if one.binary else _lines(one.lines_added, one.lines_removed),
        ]
        for one in review.files
    ]
    parts += ["", plain_table(["file", "", "lines"], rows)]
    if review.diff is None:
        parts += ["", Text("The diff is too large to be shown: look at it with git.", style="dim")]
    elif review.diff:
        parts += ["", diff_block(review.diff)]
    return parts


def _lines(added: int, removed: int) -> str:
    return f"+{added} -{removed}"
