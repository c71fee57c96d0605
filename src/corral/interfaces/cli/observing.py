"""How the processes that stay are looked at: their log, their metrics, their traces."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from corral.client import Corral
from corral.errors import ConfigurationError, ExtraMissing, StoreUnavailable
from corral.interfaces.identity import Scope
from corral.interfaces.observability.logs import configure_logging
from corral.interfaces.ports import refuse_taken_port
from corral.settings import read_settings, stray_variables

if TYPE_CHECKING:
    from corral.interfaces.http.admission import Guard
    from corral.interfaces.observability.exporter import Admit
    from corral.interfaces.observability.telemetry import Telemetry

_log = logging.getLogger(__name__)
_LIBRARIES = frozenset({"opentelemetry", "prometheus_client"})
_PATIENCE_S = 5


def start_logging() -> None:
    """Log to standard error as ``CORRAL_LOG_FORMAT`` says; whoever has set up a log of their own keeps it."""
    if logging.getLogger().handlers:
        return
    try:
        form = read_settings().log_format
    except ConfigurationError:  # told by the command itself, in one line
        form = "console"
    configure_logging(form)
    for name, meant in stray_variables().items():
        _log.warning("%s is no setting%s", name, f"; is {meant} meant?" if meant else "")


def observe(corral: Corral) -> str | None:
    """Let telemetry look on at the jobs, unless the app's own observer does.

    Returns:
        The library that telemetry lacks; None when all is well.
    """
    if corral.observer is None:
        try:
            from corral.interfaces.observability.telemetry import Telemetry  # noqa: PLC0415 - an extra
        except ImportError as error:
            name = (error.name or "").partition(".")[0]
            if name not in _LIBRARIES:
                raise
            return name
        corral.observer = Telemetry()
    return None


@asynccontextmanager
async def metrics_served(corral: Corral, port: int | None, *, host: str | None = None) -> AsyncIterator[None]:
    """Observe the jobs, and serve the metrics of this process meanwhile, to whom the HTTP API would serve them.

    Args:
        corral: Its workers aren't started yet.
        port: None serves nothing.
        host: Bind address; None: the setting's.

    Raises:
        ConfigurationError: The port is taken, the address isn't loopback and no token is configured, or the app
            observes its jobs by something without metrics.
        ExtraMissing: There is a port, and the libraries are not installed.
    """
    missing = observe(corral)
    if port is None:
        yield
        return
    if missing is None:
        try:
            from corral.interfaces.http.context import Api  # noqa: PLC0415 - an extra
        except ModuleNotFoundError as error:
            missing = error.name
    if missing is not None:
        raise ExtraMissing(f"--metrics-port needs {missing}: pip install 'corral[http]'")
    from corral.interfaces.observability.exporter import metrics_server  # noqa: PLC0415 - an extra

    registry = _telemetry_of(corral).registry
    host = host or corral.settings.metrics_host
    guard = await Api(corral).guard()
    await guard.authenticator.refuse_public_bind(host)
    refuse_taken_port(host, port, option="--metrics-port")
    with metrics_server(registry, host=host, port=port, admit=_admission(guard, asyncio.get_running_loop())):
        yield


def _admission(guard: Guard, loop: asyncio.AbstractEventLoop) -> Admit:
    """The guard of the HTTP API, for requests that come in other threads."""
    from fastapi import Request  # noqa: PLC0415 - an extra

    async def check(fields: list[tuple[str, str]], peer: str) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        request = Request({"type": "http", "method": "GET", "headers": headers, "client": (peer, 0)})
        (await guard.identify(request)).require(Scope.READ)

    def admit(fields: list[tuple[str, str]], peer: str) -> None:
        answer = asyncio.run_coroutine_threadsafe(check(fields, peer), loop)
        try:
            answer.result(_PATIENCE_S)
        except TimeoutError:
            answer.cancel()
            raise StoreUnavailable(f"the token could not be checked within {_PATIENCE_S} s") from None

    return admit


def _telemetry_of(corral: Corral) -> Telemetry:
    from corral.interfaces.observability.telemetry import Telemetry  # noqa: PLC0415 - an extra

    if not isinstance(corral.observer, Telemetry):
        raise ConfigurationError(
            f"--metrics-port: expected the app's observer to be a Telemetry, got {type(corral.observer).__name__!r}. "
            "Mend: leave corral.observer unset, or serve its metrics yourself"
        )
    return corral.observer
