"""The command: runs every check, shows what was found, and tells by its exit code."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from corral.client import Corral
from corral.errors import ConfigurationError, CorralError, StoreAuthenticationFailed
from corral.interfaces.cli import parts
from corral.interfaces.cli.doctor.finding import Finding, Verdict
from corral.interfaces.cli.doctor.machine import (
    check_by_trying,
    check_disk,
    check_env_file,
    check_git,
    check_strays,
)
from corral.interfaces.cli.doctor.queues import QueueSeen, check_queues
from corral.interfaces.cli.doctor.store import check_store
from corral.interfaces.cli.output import ExitCode, Output
from corral.interfaces.cli.parameters import JsonOption
from corral.interfaces.cli.session import Invocation, guarded, leave, open_corral
from corral.settings import Settings, read_settings, stray_variables

commands = typer.Typer()

_UNREACHABLE = (
    "check REDIS_URL (in the environment or .env), that the server runs, and that nothing between blocks its port"
)
_SANDBOX = (
    "pip install 'corral[sandbox]' or apt-get install bubblewrap; docs/test-execution.md tells what else is needed"
)
_MODEL = "set CORRAL_MODEL and the provider's key, or pip install 'corral[llm,local-model]'"
_INDEX = "pip install 'corral[index]', and set CORRAL_EMBEDDER as docs/search.md says"
_MARKS = {
    Verdict.OK: ("✓", "green"),
    Verdict.NOTE: ("·", "dim"),
    Verdict.WARNING: ("!", "yellow"),
    Verdict.FAULT: ("✗", "bold red"),
}


@commands.command()
def doctor(context: typer.Context, *, json: JsonOption = False) -> None:
    """Look for what is wrong: Redis, queues, sandbox, git, model, forge; each with how to mend it.

    The exit code is 1 when there is a fault.
    """
    invocation: Invocation = context.obj or Invocation()

    async def command(output: Output) -> ExitCode:
        findings = await examine(invocation)
        if output.json:
            output.show(findings)
        else:
            output.out.print(report(findings))
        return ExitCode.FAILED if any(finding.verdict is Verdict.FAULT for finding in findings) else ExitCode.OK

    leave(guarded(command, Output(as_json_lines=json), debug=invocation.debug))


async def examine(invocation: Invocation) -> list[Finding]:
    """Run every check. A check that breaks is a finding too; none keeps the others from running."""
    try:
        settings = read_settings()
    except ConfigurationError as error:
        return [Finding("settings", Verdict.FAULT, str(error), "docs/settings.md lists them all")]
    findings = [finding for finding in [check_env_file(Path(".env"))] if finding]
    findings += check_strays(stray_variables())
    findings += await examine_redis(invocation, settings)
    findings += await examine_machine(settings)
    return findings


async def examine_redis(invocation: Invocation, settings: Settings) -> list[Finding]:
    """The server and the queues."""
    where = _address(settings)
    try:
        async with open_corral(invocation) as corral:
            url = settings.redis_url.get_secret_value() if settings.redis_url else ""
            return [
                Finding("redis", Verdict.OK, where),
                *await check_store(corral.redis, tls=url.startswith("rediss://"), embedded=_is_local(url)),
                *check_queues(await _queues(corral)),
            ]
    except StoreAuthenticationFailed as error:
        return [
            Finding("redis", Verdict.FAULT, f"{where}: {error}", "check the user name and the password in REDIS_URL")
        ]
    except ConfigurationError as error:
        return [Finding("redis", Verdict.FAULT, str(error), "correct it in the environment or in .env")]
    except CorralError as error:
        return [
            Finding(
                "redis",
                Verdict.FAULT,
                f"{where}: {error}",
                _UNREACHABLE,
            )
        ]


async def _queues(corral: Corral) -> list[QueueSeen]:
    async def see(name: str) -> QueueSeen:
        stats, workers = await asyncio.gather(corral.get_queue_stats(name), corral.list_workers(name))
        return QueueSeen(stats, len(workers))

    return await asyncio.gather(*(see(name) for name in sorted(corral.job_types)))


async def examine_machine(settings: Settings) -> list[Finding]:
    """What runs on this machine."""
    missing = parts.local_model_missing(settings)
    return [
        await check_git(),
        await asyncio.to_thread(check_disk, settings, local_model_missing=missing),
        await check_by_trying("sandbox", lambda: parts.try_sandbox(settings), _SANDBOX),
        await check_by_trying("model", lambda: parts.try_model(settings), _MODEL),
        await check_by_trying("code search", lambda: parts.try_index(settings), _INDEX),
        await check_by_trying(
            "index store", lambda: parts.try_index_store(settings), "docs/search.md says what the bucket needs"
        ),
        await check_by_trying("forge", lambda: parts.try_forge(settings), "make a new token with the scope 'repo'"),
    ]


def report(findings: list[Finding]) -> Table:
    """The report as a table: mark, check, detail, and below it how to mend it."""
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(width=1)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        detail = Text(finding.detail)
        if finding.mend:
            detail.append(f"\nmend: {finding.mend}", style="cyan")
        table.add_row(Text(mark, style=style), escape(finding.check), detail)
    return table


def _address(settings: Settings) -> str:
    """Where Redis is, without user and password."""
    if settings.redis_url is None:
        return f"embedded Valkey in {settings.data_dir}"
    parts_of_url = urlsplit(settings.redis_url.get_secret_value())
    host = parts_of_url.netloc.rpartition("@")[2]
    return f"{parts_of_url.scheme}://{host}{parts_of_url.path}"


def _is_local(url: str) -> bool:
    if not url or url.startswith("unix:"):
        return True
    return urlsplit(url).hostname in {"localhost", "127.0.0.1", "::1"}
