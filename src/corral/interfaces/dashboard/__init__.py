"""The dashboard: pages rendered here, kept up to date over SSE, with no other script than our own and no build step."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter, Path, Request
from starlette.responses import RedirectResponse, Response

from corral.errors import JobNotFound
from corral.interfaces.dashboard import actions, live, pages, pulls
from corral.interfaces.dashboard.door import dashboard_route, open_name
from corral.interfaces.dashboard.rendering import SECURITY_HEADERS
from corral.interfaces.http.context import Api

_STATIC: Final = {"app.css": "text/css; charset=utf-8", "app.js": "text/javascript; charset=utf-8",
                  "icon.svg": "image/svg+xml"}  # fmt: skip
__all__ = ["dashboard_router"]


def dashboard_router(api: Api, base: str = "/dashboard") -> APIRouter:
    """Make the dashboard's routes.

    Args:
        api: What it shows.
        base: Where it is; the pages' own links need to know.
    """
    router = APIRouter(prefix=base, route_class=dashboard_route(api, base), include_in_schema=False)
    for path, page in (
        ("/", pages.overview),
        ("/jobs", pages.jobs),
        ("/queues/{job_type}", pages.queue),
        ("/jobs/{job_type}/{job_id}", pages.job),
        ("/workers", pages.workers),
        ("/projects", pulls.projects),
        ("/projects/{project_id}/pulls", pulls.pull_requests),
        ("/projects/{project_id}/pulls/{number}", pulls.pull_request),
        ("/live/overview", live.live_overview),
        ("/live/workers", live.live_workers),
        ("/live/queues/{job_type}", live.live_queue),
        ("/live/jobs/{job_type}/{job_id}", live.live_job),
    ):
        router.add_api_route(path, page, methods=["GET"], response_model=None)
    for path, action in (
        ("/jobs/{job_type}/{job_id}/{action}", actions.act_on_job),
        ("/queues/{job_type}/{action}", actions.act_on_queue),
        ("/projects/{project_id}/pulls/{number}/{action}", pulls.act_on_pull_request),
        ("/logout", actions.logout),
    ):
        router.add_api_route(path, action, methods=["POST"], response_model=None)
    for method, path, handler in (
        ("GET", "/login", actions.login_page),
        ("POST", "/login", actions.login),
        ("GET", "/static/{name}", _static),
        ("GET", "", _add_slash),
    ):
        router.add_api_route(path, handler, methods=[method], response_model=None, name=open_name(handler.__name__))
    return router


async def _add_slash(request: Request) -> Response:
    return RedirectResponse(f"{request.state.base}/", 308, headers=SECURITY_HEADERS)


async def _static(name: str = Path(max_length=20)) -> Response:
    if name not in _STATIC:
        raise JobNotFound(f"there is no file {name!r}")
    headers = {**SECURITY_HEADERS, "Cache-Control": "no-cache"}
    return Response(_read(name), media_type=_STATIC[name], headers=headers)


@cache
def _read(name: str) -> bytes:
    return files("corral.interfaces.dashboard").joinpath("static", name).read_bytes()
