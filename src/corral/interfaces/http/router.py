"""All endpoints as one router, to mount in any FastAPI app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends
from fastapi.security import HTTPBearer

from corral.interfaces.http import access, events, health, jobs, projects, queues, submission
from corral.interfaces.http.context import Api, SearchPort
from corral.interfaces.http.guard import guarded_route

if TYPE_CHECKING:
    from corral.client import Corral
    from corral.interfaces.identity import Authenticator

_BEARER = HTTPBearer(
    scheme_name="corral",
    description="An API token (`corral token create`) or a JWT of the platform. On a machine where no token was ever "
    "made, programs on that machine need none.",
    auto_error=False,
)


def create_router(
    corral: Corral, *, authenticator: Authenticator | None = None, search: SearchPort | None = None
) -> APIRouter:
    """Make the HTTP API as a router: ``app.include_router(create_router(corral))``, with or without a prefix.

    Identity, rate limits, size limits and problem documents come along; the app's own handlers are not needed and not
    touched. The Corral is connected with the first request; closing it is the app's part.

    Args:
        corral: What is served.
        authenticator: Who may come in; None: API tokens, and JWTs where the settings name a secret or key set.
        search: What answers code searches; None: the Corral's own index.
    """
    return router_of(Api(corral, authenticator=authenticator, search=search))


def router_of(api: Api) -> APIRouter:
    """The router over given state."""
    route_class = guarded_route(api)
    v1 = APIRouter(prefix="/v1", route_class=route_class, dependencies=[Depends(_BEARER)])
    parts = (
        (submission, "jobs"),
        (jobs, "jobs"),
        (events, "events"),
        (queues, "queues"),
        (projects, "projects"),
        (access, "access"),
    )
    for part, tag in parts:
        tagged = APIRouter(route_class=route_class, tags=[tag])
        part.add_routes(tagged)
        v1.include_router(tagged)
    router = APIRouter()
    plain = APIRouter(route_class=route_class, tags=["health"])
    health.add_routes(plain)
    router.include_router(plain)
    router.include_router(v1)
    return router
