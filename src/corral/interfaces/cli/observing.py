"""How the processes that stay are looked at: their log, their metrics, their traces."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from corral.client import Corral
from corral.errors import ConfigurationError, ExtraMissing
from corral.interfaces.cli.session import read_settings
from corral.interfaces.observability.logs import configure_logging
from corral.interfaces.ports import refuse_taken_port

if TYPE_CHECKING:
    from corral.interfaces.observability.telemetry import Telemetry

_LIBRARIES = frozenset({"opentelemetry", "prometheus_client"})
_LOOPBACK = "127.0.0.1"


def start_logging() -> None:
    """Log to standard error as ``CORRAL_LOG_FORMAT`` says; whoever has set up a log of their own keeps it."""
    if logging.getLogger().handlers:
        return
    try:
        form = read_settings().log_format
    except ConfigurationError:  # told by the command itself, in one line
        form = "console"
    configure_logging(form)


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


@contextmanager
def metrics_served(corral: Corral, port: int | None) -> Iterator[None]:
    """Observe the jobs, and serve the metrics of this process on loopback meanwhile.

    Args:
        corral: Its workers aren't started yet.
        port: None serves nothing.

    Raises:
        ConfigurationError: The port is taken, or the app observes its jobs by something without metrics.
        ExtraMissing: There is a port, and the libraries are not installed.
    """
    missing = observe(corral)
    if port is None:
        yield
        return
    if missing is not None:
        raise ExtraMissing(f"--metrics-port needs {missing}: pip install 'corral[http]'")
    refuse_taken_port(_LOOPBACK, port, option="--metrics-port")
    from prometheus_client import start_http_server  # noqa: PLC0415 - an extra

    server, thread = start_http_server(port, addr=_LOOPBACK, registry=_telemetry_of(corral).registry)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _telemetry_of(corral: Corral) -> Telemetry:
    from corral.interfaces.observability.telemetry import Telemetry  # noqa: PLC0415 - an extra

    if not isinstance(corral.observer, Telemetry):
        raise ConfigurationError(
            f"--metrics-port: expected the app's observer to be a Telemetry, got {type(corral.observer).__name__!r}. "
            "Mend: leave corral.observer unset, or serve its metrics yourself"
        )
    return corral.observer
