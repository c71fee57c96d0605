"""Files that a test run left, over HTTP: for those who may see its job."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import Path
from starlette.responses import Response

from corral.interfaces.http import models
from corral.interfaces.http.context import CallDep
from corral.interfaces.http.routes import Section, endpoint

_ANY: Final = "application/octet-stream"
Name = Annotated[str, Path(pattern=r"^[0-9a-f]{64}(\.[a-z0-9]{1,8})?$", description="Its `storedAs`.")]


def add_routes(section: Section) -> None:
    """Add the endpoint."""
    content: dict[int | str, dict[str, Any]] = {
        200: {"description": "The file.", "content": {_ANY: {"schema": {"type": "string", "format": "binary"}}}}
    }
    endpoint(section, "GET", "/jobs/{job_type}/{job_id}/artifacts/{name}", get_artifact, scope="read", answers=None,
             problems=(404,), more=content)  # fmt: skip


async def get_artifact(call: CallDep, job_type: models.JobTypeName, job_id: models.JobId, name: Name) -> Response:
    """Get a file that a test run left.

    It was written by untrusted code, so it comes as a download, whatever it is.
    """
    await call.job(job_type, job_id)
    found = await call.corral.get_artifact(job_type, job_id, name)
    shown = quote(PurePosixPath(found.artifact.path).name, safe="")
    return Response(
        found.content,
        media_type=_ANY,
        headers={
            "Content-Disposition": f"attachment; filename*=UTF-8''{shown}",
            "Content-Security-Policy": "default-src 'none'; sandbox",
            "X-Content-Type-Options": "nosniff",
        },
    )
