"""All endpoints as one router, to mount in any FastAPI app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter

from corral.interfaces.http import (
    access,
    artifacts,
    events,
    health,
    hooks,
    jobs,
    metrics,
    projects,
    pulls,
    queues,
    submission,
)
from corral.interfaces.http.context import Api, SearchPort
from corral.interfaces.http.guard import guarded_route
from corral.interfaces.http.routes import Section

if TYPE_CHECKING:
    from corral.client import Corral
    from corral.interfaces.identity import Authenticator


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
    router = APIRouter(route_class=guarded_route(api))
    for part, tag in (
        (submission, "jobs"),
        (jobs, "jobs"),
        (artifacts, "jobs"),
        (events, "events"),
        (queues, "queues"),
        (projects, "projects"),
        (pulls, "projects"),
        (hooks, "hooks"),
        (access, "access"),
    ):
        part.add_routes(Section(router, "/v1", tag))
    for plain in (health, metrics):
        plain.add_routes(Section(router, "", "health"))
    return router
