"""Who am I, and API tokens, over HTTP."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import Depends, Path
from fastapi.security import HTTPBearer
from starlette.responses import Response

from corral.interfaces.http import models
from corral.interfaces.http.context import CallDep
from corral.interfaces.http.problems import HttpProblem
from corral.interfaces.http.routes import SECURITY_SCHEME, Json, Section, endpoint
from corral.interfaces.identity import TokenInfo

TokenId = Annotated[str, Path(pattern=r"^[0-9a-f]{16}$")]


#: One endpoint depends on it, so that FastAPI lists the scheme; the guard does the work for all, once and early.
_BEARER: Final = HTTPBearer(
    scheme_name=SECURITY_SCHEME,
    description="An API token (`corral token create`) or a JWT of the platform. On a machine where no token was ever "
    "made, programs on that machine need none.",
    auto_error=False,
)
_CREATED: Final[dict[int | str, dict[str, Any]]] = {
    201: {"links": {"revoke": {"operationId": "revoke_token", "parameters": {"token_id": "$response.body#/id"}}}}
}


def add_routes(section: Section) -> None:
    """Add the endpoints."""
    endpoint(section, "GET", "/me", get_me, scope="read", answers=models.Me, dependencies=[Depends(_BEARER)])
    endpoint(section, "GET", "/tokens", list_tokens, scope="admin", answers=models.Tokens)
    endpoint(section, "POST", "/tokens", create_token, scope="admin", answers=models.CreatedToken, status=201,
             more=_CREATED)  # fmt: skip
    endpoint(section, "DELETE", "/tokens/{token_id}", revoke_token, scope="admin", answers=None, status=204,
             problems=(404,))  # fmt: skip


async def get_me(call: CallDep) -> Response:
    """Say who the caller is and what they may do."""
    who = call.principal
    return Json(
        models.Me(
            user_id=who.user_id,
            scopes=sorted(who.scopes),
            kind=who.kind,
            projects=sorted(who.projects) if who.projects is not None else None,
            expires_at=who.expires_at,
        )
    )


async def list_tokens(call: CallDep) -> Response:
    """List the API tokens that still work, without their secrets."""
    store = (await call.api.guard()).authenticator.tokens
    return Json(models.Tokens(tokens=[models.TokenView(**_fields(token)) for token in await store.list()]))


async def create_token(call: CallDep, body: models.CreateToken) -> Response:
    """Make an API token. The answer is the only time that it is shown.

    Once a token exists, callers on this machine need one too.
    """
    store = (await call.api.guard()).authenticator.tokens
    token, info = await store.create(
        body.user_id,
        body.scopes,
        name=body.name,
        lifetime=timedelta(seconds=body.lifetime_s) if body.lifetime_s else None,
        projects=body.projects,
        request_limit=body.request_limit,
    )
    return Json(models.CreatedToken(token=token, **_fields(info)), status_code=201)


async def revoke_token(call: CallDep, token_id: TokenId) -> Response:
    """End an API token."""
    store = (await call.api.guard()).authenticator.tokens
    if not await store.revoke(token_id):
        raise HttpProblem(404, "token-not-found", "No such token", f"there is no token {token_id!r}")
    return Response(status_code=204)


def _fields(token: TokenInfo) -> dict[str, object]:
    return {
        "id": token.id,
        "user_id": token.user_id,
        "scopes": sorted(token.scopes),
        "name": token.name,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "projects": sorted(token.projects) if token.projects is not None else None,
        "request_limit": token.request_limit,
    }
