"""Who may ask the MCP server over HTTP: the credentials and rules of ``corral.interfaces.identity``."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextvars import ContextVar
from typing import Any, Final

from corral.errors import CorralError, NotAuthenticated, NotPermitted
from corral.interfaces.identity import Authenticator, Principal, Scope, local_principal

_EXPECTED: Final = "expected the header 'Authorization: Bearer <token>'"
_caller: ContextVar[Principal | None] = ContextVar("corral_mcp_caller", default=None)

AsgiApp = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


def caller() -> Principal | None:
    """Who sent the request that is being answered; None over standard input, where there is nobody else."""
    return _caller.get()


class Guarded:
    """An ASGI application behind a login.

    Without any token or JWT configured it is open, as the HTTP API is: it listens on loopback then, and the application
    itself refuses requests under another host's name.

    Args:
        app: What is guarded.
        authenticator: Knows the credentials.
    """

    def __init__(self, app: AsgiApp, authenticator: Authenticator) -> None:
        self._app = app
        self._authenticator = authenticator

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        """Let a request in, or answer that it may not come."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            principal = await self._identify(dict(scope["headers"]).get(b"authorization"))
            principal.require(Scope.READ)
        except NotAuthenticated as error:
            await _refuse(send, 401, str(error))
        except NotPermitted as error:
            await _refuse(send, 403, str(error))
        except CorralError:
            await _refuse(send, 503, "credentials can't be checked now")
        else:
            token = _caller.set(principal)
            try:
                await self._app(scope, receive, send)
            finally:
                _caller.reset(token)

    async def _identify(self, header: bytes | None) -> Principal:
        if header is None:
            if await self._authenticator.is_open():
                return local_principal()
            raise NotAuthenticated(_EXPECTED)
        kind, _, credential = header.decode("latin-1").partition(" ")
        if kind.lower() != "bearer" or not credential.strip():
            raise NotAuthenticated(_EXPECTED)
        return await self._authenticator.check(credential.strip())


async def _refuse(send: Any, status: int, said: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": said}).encode()})
