"""The HTTP API: `create_app` for a server of its own, `create_router` for a FastAPI app of yours.

`limit_requests` makes the rate limiter a dependency of your own endpoints.
"""

from __future__ import annotations

from corral.interfaces.http.app import create_app, serve
from corral.interfaces.http.dependencies import limit_requests
from corral.interfaces.http.router import create_router

__all__ = ["create_app", "create_router", "limit_requests", "serve"]
