"""Job types that the tests of the faces use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2 as httpx
from pydantic import BaseModel

Client = httpx.AsyncClient
ClientFactory = Callable[..., Awaitable[Client]]
TokenFactory = Callable[..., Awaitable[str]]


class Thumbnail(BaseModel):
    """A payload without a user."""

    url: str


def declare_samples(corral: Any) -> None:
    corral.declare("thumbnail", payload=Thumbnail)
    corral.declare("anything")


def code_generation(**changes: Any) -> dict[str, Any]:
    return {"taskId": "123", "prompt": "Build auth system", "projectId": "proj-id", **changes}
