"""The rate limiter as a dependency of any FastAPI endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from fastapi import HTTPException, Request, Response

from corral.ratelimit import MINUTE, RateLimit, RateLimitDecision, RateLimiter

if TYPE_CHECKING:
    from datetime import timedelta

    from corral.client import Corral


def limit_requests(
    corral: Corral,
    *,
    user: Callable[[Request], str],
    limit: int = 100,
    window: timedelta = MINUTE,
    endpoint: str | None = None,
) -> Callable[[Request, Response], Awaitable[RateLimitDecision]]:
    """Make a dependency: ``@app.post("/ask", dependencies=[Depends(limit_requests(corral, user=user_of))])``.

    Sets the ``RateLimit`` header fields; refuses with 429 and ``Retry-After``.

    Args:
        corral: Its Redis keeps the counts.
        user: Whose request it is.
        limit: Requests allowed within ``window``.
        window: It slides.
        endpoint: What is limited; None: the route's path, so that each endpoint has a count of its own.
    """
    rule = RateLimit(limit=limit, window=window)

    async def check(request: Request, response: Response) -> RateLimitDecision:
        route = request.scope.get("route")
        name = endpoint or getattr(route, "path", request.url.path)
        decision = await RateLimiter(corral, prefix=corral.namespace).hit(
            user(request), f"{request.method} {name}", rule
        )
        headers = dict(decision.headers())
        if not decision.allowed:
            raise HTTPException(429, "the request limit is used up", headers=headers)
        response.headers.update(headers)
        return decision

    return check
