"""``/metrics`` of a process that serves nothing else: a worker's.

It answers from threads of its own, so that a handler that keeps the event loop busy shows in the figures instead of
hiding them. Who may ask is decided as by the HTTP API.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from corral.errors import AccessRefused, CorralError, NotAuthenticated

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Admit = Callable[[list[tuple[str, str]], str], None]
"""Gets a request's header fields (names in lower case) and its peer's address; raises `CorralError` to refuse it."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""


class _Quiet(WSGIRequestHandler):
    timeout = 10  # s: a peer that says nothing doesn't keep its thread

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class' name
        """Nothing: it is asked every few seconds."""


@contextmanager
def metrics_server(registry: CollectorRegistry, *, host: str, port: int, admit: Admit) -> Iterator[None]:
    """Serve the metrics until the block ends.

    Args:
        registry: Of the metrics.
        host: Bind address, an IPv4 one or a name.
        port: Free.
        admit: Lets a request in, or raises.
    """
    application = _guarded(make_wsgi_app(registry), admit)
    with make_server(host, port, application, _Server, _Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, name="corral-metrics", kwargs={"poll_interval": 0.1})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _guarded(application: WSGIApplication, admit: Admit) -> WSGIApplication:
    def guarded(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        fields = [
            (name.removeprefix("HTTP_").lower().replace("_", "-"), str(value))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        ]
        try:
            admit(fields, str(environ.get("REMOTE_ADDR", "")))
        except CorralError as error:
            status, more = _refusal(error)
            start(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8"), *more])
            return [f"{error}\n".encode()]
        return application(environ, start)

    return guarded


def _refusal(error: CorralError) -> tuple[HTTPStatus, list[tuple[str, str]]]:
    if isinstance(error, NotAuthenticated):
        return HTTPStatus.UNAUTHORIZED, [("WWW-Authenticate", 'Bearer realm="corral"')]
    if isinstance(error, AccessRefused):
        return HTTPStatus.FORBIDDEN, []
    return HTTPStatus.SERVICE_UNAVAILABLE, []
