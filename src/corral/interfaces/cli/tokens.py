"""``corral token``: who may use the HTTP API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.markup import escape

from corral.client import Corral
from corral.interfaces.cli.output import ExitCode, Output
from corral.interfaces.cli.parameters import JsonOption, parse_duration
from corral.interfaces.cli.rendering import moment, plain_table
from corral.interfaces.cli.session import run
from corral.interfaces.identity import Scope, TokenStore

commands = typer.Typer(help="Who may use the HTTP API.", no_args_is_help=True)


@commands.command("create")
def create(
    context: typer.Context,
    user: Annotated[str, typer.Argument(metavar="USER", help="Whose token it is.")],
    *,
    scopes: Annotated[list[Scope], typer.Option("--scope", help="May be given again.")],
    name: Annotated[str, typer.Option("--name", help="Where it is used.")] = "",
    lifetime: Annotated[
        timedelta | None,
        typer.Option("--lifetime", parser=parse_duration, metavar="DURATION", help="Default: until revoked."),
    ] = None,
    projects: Annotated[
        list[str] | None, typer.Option("--project", help="Only this project; may be given again.")
    ] = None,
    request_limit: Annotated[
        int | None, typer.Option("--request-limit", min=0, help="Requests a minute and endpoint; 0: none.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Make a token and show it, this once. From then on the HTTP API asks everybody for one."""

    async def command(corral: Corral, output: Output) -> None:
        token, info = await TokenStore(corral.redis, prefix=corral.namespace).create(
            user, scopes, name=name, lifetime=lifetime, projects=projects, request_limit=request_limit
        )
        output.note(f"token {info.id} of {user}; it is shown this once:")
        output.show({"token": token, "id": info.id}, escape(token))

    run(context, command, json=json)


@commands.command("list")
def list_tokens(context: typer.Context, *, json: JsonOption = False) -> None:
    """List the tokens that still work."""

    async def command(corral: Corral, output: Output) -> None:
        found = await TokenStore(corral.redis, prefix=corral.namespace).list()
        rows = [
            [
                escape(one.id),
                escape(one.user_id),
                ", ".join(sorted(one.scopes)),
                escape(one.name),
                moment(one.created_at),
                "never" if one.expires_at is None else _remaining(one.expires_at),
            ]
            for one in found
        ]
        output.show(
            found, plain_table(["id", "user", "scopes", "name", "created", "expires"], rows) if rows else "no tokens"
        )

    run(context, command, json=json)


@commands.command("revoke")
def revoke(
    context: typer.Context, token: Annotated[str, typer.Argument(metavar="TOKEN_ID")], *, json: JsonOption = False
) -> None:
    """End a token; everywhere within a second."""

    async def command(corral: Corral, output: Output) -> ExitCode | None:
        if not await TokenStore(corral.redis, prefix=corral.namespace).revoke(token):
            return output.fail(
                LookupError(f"no token {escape(token)!r}. Mend: corral token list"), code=ExitCode.NOT_FOUND
            )
        output.show({"id": token}, f"{escape(token)}: revoked")
        return None

    run(context, command, json=json)


def _remaining(expires_at: datetime) -> str:
    days = (expires_at - datetime.now(UTC)).total_seconds() / 86_400
    return f"in {days:.1f} days" if days > 0 else "expired"
