"""Job types that the tests of the faces use."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from corral.jobs.code_generation.payload import CodeGeneration


class Thumbnail(BaseModel):
    """A payload without a user."""

    url: str


def declare_samples(corral: Any) -> None:
    corral.declare("code-generation", payload=CodeGeneration)
    corral.declare("thumbnail", payload=Thumbnail)
    corral.declare("anything")


def code_generation(**changes: Any) -> dict[str, Any]:
    return {"taskId": "123", "prompt": "Build auth system", "projectId": "proj-id", **changes}
