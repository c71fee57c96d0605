"""The door of every endpoint: its body is bounded, its caller admitted, and every error a problem document.

It sits in the route class, so that it holds wherever the router is mounted, and so that nothing of a request is read
or parsed before the caller is known.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Coroutine
from http import HTTPStatus
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic_core import from_json

from corral.interfaces.http.context import Api, Call
from corral.interfaces.http.problems import HttpProblem, problem_of, problem_response
from corral.interfaces.identity import Scope
from corral.wire.faults import translate_error

SCOPE_KEY: Final = "x-corral-scope"
"""OpenAPI extension that names the scope an endpoint needs; ``none`` for the open ones."""
_BODILESS: Final = frozenset({"GET", "HEAD"})
_MAY_OVERFLOW: Final = re.compile(rb"[0-9][eE]\+?[0-9]{3}|[0-9]{200}")
_LOGGER: Final = logging.getLogger("corral.http")


class StrictRequest(Request):
    """A request whose body is bounded, and is JSON as RFC 8259 has it: no NaN, no infinity, no lone surrogates."""

    max_bytes: int = 0

    async def body(self) -> bytes:
        """The whole body.

        Raises:
            HttpProblem: It is larger than allowed; reading stops there.
        """
        if not hasattr(self, "_body"):
            chunks: list[bytes] = []
            size = 0
            declared = self.headers.get("content-length", "0")
            if declared.isdecimal() and int(declared) > self.max_bytes:
                raise _too_large(self.max_bytes)
            async for chunk in self.stream():
                size += len(chunk)
                if size > self.max_bytes:
                    raise _too_large(self.max_bytes)
                chunks.append(chunk)
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        """The body, decoded.

        Raises:
            JSONDecodeError: It isn't JSON.
        """
        body = await self.body()
        try:
            value = from_json(body, allow_inf_nan=False)
            # 1e999 is JSON, but a float can't hold it and JSON can't give the infinity on to a worker. To overflow, a
            # number needs an exponent of three digits or more than two hundred digits before its point.
            if _MAY_OVERFLOW.search(body):
                json.dumps(value, allow_nan=False)
        except (ValueError, RecursionError) as error:
            raise json.JSONDecodeError(str(error), "", 0) from None
        return value


def _too_large(max_bytes: int) -> HttpProblem:
    return HttpProblem(413, "too-large", "The request is too large", f"expected a body of at most {max_bytes} bytes")


Shortcut = Callable[[StrictRequest, Call], Awaitable[Response | None]]
"""Handles a request of the usual form by itself; None leaves it to FastAPI, which also says what is wrong with it."""

SHORTCUTS: Final[dict[Callable[..., Any], Shortcut]] = {}
"""By endpoint. FastAPI solves an endpoint's parameters anew for every request, which costs more than to add a job."""


def guarded_route(api: Api) -> type[APIRoute]:
    """A route class whose endpoints are guarded."""

    class GuardedRoute(APIRoute):
        """See `guarded_route`."""

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """Wrap FastAPI's own handler."""
            handle = super().get_route_handler()
            named = (self.openapi_extra or {})[SCOPE_KEY]  # an endpoint without it is a mistake that must not start
            scope = None if named == "none" else Scope(named)
            endpoint = self.name
            shortcut = SHORTCUTS.get(self.endpoint)

            async def guarded(request: Request) -> Response:
                state = request.state
                state.api = api
                try:
                    if scope is not None:
                        guard = await api.guard()
                        state.call = Call(api, await guard.admit(request, scope, endpoint))
                    strict = StrictRequest(request.scope, request.receive)
                    strict.max_bytes = api.settings.request_max_bytes
                    if request.method not in _BODILESS:
                        await strict.body()  # here, as FastAPI makes a 400 of any error while it reads
                    response = await shortcut(strict, state.call) if shortcut is not None else None
                    if response is None:
                        response = await handle(strict)
                except Exception as error:  # noqa: BLE001 - the edge: every error becomes an answer
                    response = answer_error(error, request)
                for name, value in getattr(state, "limit_headers", {}).items():
                    if name in response.headers:  # the problem document of a refusal says Retry-After itself
                        continue
                    response.raw_headers.append((name.lower().encode(), value.encode()))
                return response

            return guarded

    return GuardedRoute


def answer_error(error: Exception, request: Request) -> Response:
    """The problem document for any error; one that nobody foresaw is logged and says nothing about our insides."""
    response = problem_of(translate_error(error) or error)
    if response is None:
        _LOGGER.error("%s %s failed", request.method, request.url.path, exc_info=error)
        response = problem_response(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal",
            "Corral failed",
            f"{type(error).__name__} at our side; the server's log has the rest",
        )
    return response
