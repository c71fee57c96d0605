"""Whether the process lives, and whether it can work."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from fastapi import Request
from starlette.responses import Response

from corral.interfaces.http import models
from corral.interfaces.http.context import Api
from corral.interfaces.http.problems import HttpProblem, Problem
from corral.interfaces.http.routes import Json, Section, endpoint

_PATIENCE_S: Final = 2.0


def add_routes(section: Section) -> None:
    """Add the endpoints."""
    endpoint(section, "GET", "/healthz", get_health, scope="none", answers=models.Health)
    # The one place where FastAPI is told of the model: the others refer to what this puts among the components.
    endpoint(section, "GET", "/readyz", get_readiness, scope="none", answers=models.Readiness, problems=(503,),
             more={503: {"model": Problem, "description": "Not ready."}})  # fmt: skip


async def get_health() -> Response:
    """Say that the process is alive; asks nobody else."""
    return Json(models.Health())


async def get_readiness(request: Request) -> Response:
    """Say whether the process can do its work: Redis answers, and it is not about to stop."""
    api: Api = request.state.api
    begun = time.perf_counter()
    if api.closing.is_set():
        raise HttpProblem(503, "stopping", "The server is about to stop", "try another one")
    try:
        async with asyncio.timeout(_PATIENCE_S):
            await api.guard()
            await api.corral.redis.ping()
    except Exception as error:
        detail = f"Redis doesn't answer: {type(error).__name__}"
        raise HttpProblem(503, "store-unavailable", "Redis doesn't answer as it should", detail) from error
    return Json(models.Readiness(redis_ms=round((time.perf_counter() - begun) * 1000, 2)))
