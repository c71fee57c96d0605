"""The HTTP server: API, dashboard and metrics as one app, and how it is run and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from corral.interfaces.http.context import Api, SearchPort
from corral.interfaces.http.guard import answer_error
from corral.interfaces.http.router import router_of
from corral.interfaces.identity import Authenticator, is_loopback
from corral.interfaces.observability.telemetry import Telemetry
from corral.interfaces.ports import refuse_taken_port

if TYPE_CHECKING:
    from corral.client import Corral

_LOGGER = logging.getLogger("corral.http")
_DESCRIPTION = """\
Background jobs for AI coding platforms: code generation, test execution, pull requests, codebase indexing, and job
types of your own.

Errors are RFC 9457 problem documents: decide by `type`. Requests are limited per user and endpoint; see the
`RateLimit` header fields. JSON is camelCase; snake_case is accepted too.
"""


def create_app(
    corral: Corral,
    *,
    authenticator: Authenticator | None = None,
    search: SearchPort | None = None,
    workers: bool | Sequence[str] = False,
    dashboard: bool = True,
) -> FastAPI:
    """Make the whole server as an ASGI app.

    Args:
        corral: What is served; connected at start and closed at the end.
        authenticator: Who may come in; None: as the settings say.
        search: What answers code searches; None: the Corral's own index.
        workers: Run workers in this process too: of all job types that have a handler, or of those named.
        dashboard: Serve the dashboard under ``/dashboard``, where ``/`` leads to.
    """
    api = Api(corral, authenticator=authenticator, search=search)
    if corral.observer is None:
        corral.observer = Telemetry()

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await api.guard()
        running = None
        try:
            if workers:
                running = await corral.start_workers(None if workers is True else list(workers))
            else:
                # Workers elsewhere may be of a language that has none.
                await corral.start_ushers()
            yield
        finally:
            api.closing.set()
            if running is not None:
                await running.stop(timeout=corral.settings.shutdown_timeout)
            await corral.close()

    app = FastAPI(
        title="Corral",
        version=_version(),
        summary="Background jobs for AI coding platforms, on Redis in BullMQ's own format.",
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # these two load their scripts from a CDN
        redoc_url=None,
        license_info={"name": "MIT"},
    )
    app.state.corral_api = api
    app.include_router(router_of(api))
    if dashboard:
        # Not from the head of this module: an app without a dashboard needs no template engine.
        from corral.interfaces.dashboard import dashboard_router  # noqa: PLC0415

        app.include_router(dashboard_router(api))
        app.add_api_route("/", _to_dashboard, include_in_schema=False)
    _describe(app, corral)
    for kind in (HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer)
    return app


def _version() -> str:
    try:
        return version("corral")
    except PackageNotFoundError:  # run from a checkout that isn't installed
        return "0"


async def _to_dashboard(request: Request) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}/dashboard/", status_code=307)


async def _answer(request: Request, error: Exception) -> Response:
    response = answer_error(error, request)
    if response.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        # FastAPI names the methods of the first route of this path only.
        response.headers["Allow"] = ", ".join(_methods_of(request))
    return response


def _methods_of(request: Request) -> list[str]:
    app: FastAPI = request.app
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    found: set[str] = set()
    for template, item in app.openapi()["paths"].items():
        pattern = "[^/]+".join(re.escape(part) for part in re.split(r"\{[^}]*\}", template))
        if re.fullmatch(pattern, path):
            found.update(method.upper() for method in item)
    return sorted(found & {"GET", "POST", "PUT", "DELETE"})


def _describe(app: FastAPI, corral: Corral) -> None:
    """Let the OpenAPI document name the job types that this server knows."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            names = sorted(corral.job_types)
            for item in generate()["paths"].values():
                for operation in item.values():
                    for parameter in operation.get("parameters", ()):
                        if parameter["name"] == "job_type" and names:
                            parameter["schema"] = {"type": "string", "enum": names}
        return generate()

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend it


def _is_an_error(record: logging.LogRecord) -> bool:
    """Leaves out the trace that uvicorn logs when it is told to end while it starts: nothing went wrong then."""
    return "asyncio.exceptions.CancelledError" not in record.getMessage()


class _Server(uvicorn.Server):
    """Tells the app when it is about to stop, so that endless answers end before it waits for them."""

    def __init__(self, config: uvicorn.Config, api: Api) -> None:
        super().__init__(config)
        self._api = api

    def handle_exit(self, sig: int, frame: Any) -> None:
        """On SIGTERM and SIGINT."""
        self._api.closing.set()
        super().handle_exit(sig, frame)


async def serve(
    corral: Corral,
    *,
    host: str | None = None,
    port: int | None = None,
    workers: bool | Sequence[str] = True,
    dashboard: bool = True,
    search: SearchPort | None = None,
    authenticator: Authenticator | None = None,
    begun: asyncio.Event | None = None,
) -> None:
    """Run the server until SIGTERM or SIGINT.

    Open requests and active jobs get ``settings.shutdown_timeout`` to end; event streams are ended at once, and their
    clients go on elsewhere by ``Last-Event-ID``. `begun` is set when the server starts to handle the two signals.

    Raises:
        ConfigurationError: ``host`` isn't loopback and no token is configured; or the port is taken.
        StoreUnavailable: Redis can't be reached.
    """
    settings = corral.settings
    host, port = host or settings.host, port or settings.port
    app = create_app(corral, authenticator=authenticator, search=search, workers=workers, dashboard=dashboard)
    api: Api = app.state.corral_api
    guard = await api.guard()
    await guard.authenticator.refuse_public_bind(host)
    refuse_taken_port(host, port, option="--port or CORRAL_PORT")
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        server_header=False,
        # A proxy in front may speak for the client's address and scheme only from this machine.
        proxy_headers=True,
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_graceful_shutdown=round(settings.shutdown_timeout.total_seconds()),
    )
    shown = f"[{host}]" if ":" in host else host
    advice = "" if is_loopback(host) else " (put TLS in front)"
    _LOGGER.info("serving on http://%s:%d%s", shown, port, advice)
    if begun is not None:
        begun.set()
    logging.getLogger("uvicorn.error").addFilter(_is_an_error)
    await _Server(config, api).serve()
