"""``corral worker`` and ``corral serve``: the processes that stay."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated

import typer
from rich.markup import escape

from corral.client import Corral
from corral.errors import ConfigurationError, ExtraMissing, UnknownJobType
from corral.interfaces.cli import parts
from corral.interfaces.cli.observing import metrics_served, start_logging
from corral.interfaces.cli.output import ExitCode, Output
from corral.interfaces.cli.parameters import JsonOption
from corral.interfaces.cli.session import Invocation, guarded, leave, run
from corral.jobs.job_type import JobType
from corral.settings import read_settings
from corral.wire.embedded import stop_embedded

commands = typer.Typer()

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
QueuesOption = Annotated[
    str | None,
    typer.Option("--queues", "-q", metavar="NAME,…", help="Which queues; default: all that have a handler here."),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option("--concurrency", "-c", min=1, help="Jobs at once per queue; default: CORRAL_CONCURRENCY, 5."),
]

AppOption = Annotated[
    str | None,
    typer.Option("--app", metavar="MODULE:NAME", help="Your own Corral; default: the four job types and the pipeline."),
]


@commands.command()
def worker(
    context: typer.Context,
    *,
    queues: QueuesOption = None,
    concurrency: ConcurrencyOption = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=1, max=65535, help="Serve this process's metrics there, at /metrics."),
    ] = None,
    metrics_host: Annotated[
        str | None,
        typer.Option("--metrics-host", help="Bind address of the metrics; default: CORRAL_METRICS_HOST, 127.0.0.1."),
    ] = None,
    app: AppOption = None,
    json: JsonOption = False,
) -> None:
    """Run jobs until SIGTERM or Ctrl-C; active jobs are finished first, a second signal hands them back at once.

    corral worker --app package.module:corral --queues a,b --concurrency 50
    """
    start_logging()
    invocation = invocation_of(context, app)

    async def command(corral: Corral, output: Output) -> ExitCode | None:
        names = queue_names(corral, queues, own_first=invocation.app is not None)
        async with metrics_served(corral, metrics_port, host=metrics_host), stop_signals() as stop:
            workers = await corral.start_workers(names, concurrency=concurrency)
            output.show({"event": "started", "queues": names}, f"serving {escape(', '.join(names))}")
            ended = asyncio.create_task(workers.wait())
            stopping = asyncio.create_task(stop.wait())
            await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not ended.done():
                grace = corral.settings.shutdown_timeout
                output.note(f"stopping: active jobs have {grace.total_seconds():.0f} s")
                await workers.stop(timeout=grace)
            await ended
        output.show({"event": "stopped"}, "stopped")
        return None

    run(context, command, json=json, invocation=invocation, fast=True)


@commands.command()
def serve(
    context: typer.Context,
    *,
    host: Annotated[str | None, typer.Option("--host", help="Bind address; default: CORRAL_HOST, 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", "-p", min=1, max=65535, help="Default: CORRAL_PORT, 8787.")
    ] = None,
    workers: Annotated[
        bool, typer.Option("--workers/--no-workers", help="Run the workers in this process too.")
    ] = True,
    queues: QueuesOption = None,
    dashboard: Annotated[bool, typer.Option("--dashboard/--no-dashboard", help="Serve the dashboard at /.")] = True,
    app: AppOption = None,
) -> None:
    """Serve the HTTP API, the dashboard, and the workers, until SIGTERM or Ctrl-C.

    Without any API token only this machine is served; `corral token create` makes one.
    """
    try:
        from corral.interfaces.http.app import serve as serve_http  # noqa: PLC0415 - an extra, and heavy
    except ModuleNotFoundError as error:
        missing = ExtraMissing(f"{error.name} is not installed. Mend: pip install 'corral[http]'")
        leave(Output().fail(missing, code=ExitCode.CONFIGURATION))
        return
    start_logging()
    invocation = invocation_of(context, app)

    async def command(corral: Corral, _: Output) -> ExitCode | None:
        chosen = queue_names(corral, queues, own_first=invocation.app is not None) if workers else False
        begun = asyncio.Event()
        with signals_left_to_the_server(begun):
            await serve_http(
                corral,
                host=host,
                port=port,
                workers=chosen,
                dashboard=dashboard,
                search=parts.code_search(corral),
                begun=begun,
            )
        return None

    run(context, command, json=False, invocation=invocation)


@commands.command("stop-embedded")
def stop_server(context: typer.Context, *, json: JsonOption = False) -> None:
    """Stop the embedded Valkey of this data folder; its jobs are there again when it is next needed."""
    invocation: Invocation = context.obj or Invocation()

    async def command(output: Output) -> None:
        settings = read_settings()
        stopped = await stop_embedded(settings.data_dir)
        said = "stopped" if stopped else "was not running"
        output.show(
            {"stopped": bool(stopped), "dataDir": str(settings.data_dir)}, f"{escape(str(settings.data_dir))}: {said}"
        )

    leave(guarded(command, Output(as_json_lines=json), debug=invocation.debug))


@contextmanager
def signals_left_to_the_server(begun: asyncio.Event) -> Iterator[None]:
    """For the HTTP server, which handles SIGTERM and SIGINT itself and raises them again when it has ended.

    It has ended in order by then, so that they must not end the process a second time.

    Args:
        begun: Set when the server takes the signals; one that comes earlier ends the command.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    loop.remove_signal_handler(signal.SIGTERM)

    def take(_number: int, _frame: object) -> None:
        if not begun.is_set() and task is not None:
            loop.call_soon_threadsafe(task.cancel)

    before = {number: signal.signal(number, take) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def invocation_of(context: typer.Context, app: str | None) -> Invocation:
    """What was said before the command's name, with an ``--app`` behind it winning."""
    said: Invocation = context.obj or Invocation()
    return Invocation(app=app or said.app, debug=said.debug)


def queue_names(corral: Corral, given: str | None, *, own_first: bool) -> list[str]:
    """The queues to serve: those given, else all that have a handler here.

    Args:
        corral: Declares them.
        given: Names separated by commas.
        own_first: Leave the four job types out where an app declares handlers of its own; they need the model, the
            sandbox and the index, which its workers may not have.

    Raises:
        UnknownJobType: One of them is not declared.
        ConfigurationError: One of them has no handler here, or none has.
    """
    served = sorted(name for name, spec in corral.job_types.items() if spec.handler is not None)
    if given is None:
        if not served:
            raise ConfigurationError(
                "expected at least one handler, the app declares none. Mend: decorate one with @corral.handler(…)"
            )
        own = [name for name in served if name not in frozenset(JobType)]
        return own if own_first and own else served
    names = [name.strip() for name in given.split(",") if name.strip()]
    if not names:
        raise ConfigurationError("--queues: expected names separated by commas, got none")
    for name in names:
        if name not in corral.job_types:
            raise UnknownJobType(
                f"expected one of {', '.join(served)}, got {name!r}. Mend: --queues, or --app with your own job types"
            )
        if name not in served:
            raise ConfigurationError(f"{name!r} is declared without a handler: its workers live elsewhere")
    return names


@asynccontextmanager
async def stop_signals(signals: Iterable[signal.Signals] = _SIGNALS) -> AsyncIterator[asyncio.Event]:
    """An event that the first SIGTERM or SIGINT sets; the second one interrupts whatever still runs."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    stop = asyncio.Event()

    def asked() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for number in signals:
        loop.add_signal_handler(number, asked)
    try:
        yield stop
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
