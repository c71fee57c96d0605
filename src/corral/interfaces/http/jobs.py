"""Jobs over HTTP: look, wait, and act on one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Annotated, Final

from fastapi import Query
from starlette.responses import Response

from corral.errors import JobFailed, JobNotFound, ResultTimedOut
from corral.interfaces.http import models
from corral.interfaces.http.context import Call, CallDep
from corral.interfaces.http.listing import JobFilter, find_jobs
from corral.interfaces.http.routes import Json, Section, endpoint
from corral.interfaces.http.views import job_summary, job_view
from corral.queue.job import JobState

FINISHED: Final = frozenset({JobState.COMPLETED, JobState.FAILED})
_JOB: Final = "/jobs/{job_type}/{job_id}"

Limit = Annotated[int, Query(ge=1, le=200, description="At most so many.")]
Offset = Annotated[int, Query(ge=0, le=2**53 - 1)]
Text = Annotated[str | None, Query(min_length=1, max_length=200)]


def add_routes(section: Section) -> None:
    """Add the endpoints."""
    view = models.JobView
    endpoint(section, "GET", "/jobs/{job_type}", list_jobs, scope="read", answers=models.JobPage, problems=(404,))
    endpoint(section, "GET", _JOB, get_job, scope="read", answers=view, problems=(404,))
    endpoint(section, "GET", f"{_JOB}/result", get_result, scope="read", answers=view, problems=(404,),
             more={202: {"model": view, "description": "Not finished within the time."}})  # fmt: skip
    endpoint(section, "GET", f"{_JOB}/logs", get_logs, scope="read", answers=models.LogPage, problems=(404,))
    endpoint(section, "POST", f"{_JOB}/cancel", cancel_job, scope="submit", answers=models.CancelOutcome,
             problems=(404, 409))  # fmt: skip
    endpoint(section, "POST", f"{_JOB}/retry", retry_job, scope="submit", answers=view, problems=(404, 409))
    endpoint(section, "POST", f"{_JOB}/promote", promote_job, scope="submit", answers=view, problems=(404, 409))
    endpoint(section, "DELETE", _JOB, remove_job, scope="submit", answers=None, status=204, problems=(404, 409))


async def list_jobs(  # noqa: PLR0917 - FastAPI gives them by name
    call: CallDep,
    job_type: models.JobTypeName,
    state: Annotated[list[JobState], Query(description="Only these; repeat for several.")] = [],  # noqa: B006 - copied
    user: Text = None,
    project: Text = None,
    text: Annotated[str | None, Query(min_length=1, max_length=200, description="In id, payload or error.")] = None,
    order: models.Order = models.Order.NEWEST,
    limit: Limit = 50,
    cursor: Annotated[
        str | None, Query(pattern=r"^(0|[1-9][0-9]{0,14})$", description="An earlier answer's `nextCursor`.")
    ] = None,
) -> Response:
    """List jobs.

    Callers see their own jobs; those with `manage` see everybody's. A filtered search in a long queue may answer
    fewer jobs than asked together with a `nextCursor`: go on from there.
    """
    found, offset = await find_jobs(
        call.corral,
        call.known(job_type),
        state or None,
        wanted=JobFilter(user_id=user, project_id=project, text=text),
        may_see=call.may_see,
        offset=int(cursor or 0),
        limit=limit,
        newest_first=order is models.Order.NEWEST,
        sees_everyone=call.principal.sees_everyone,
    )
    return Json(
        models.JobPage(jobs=[job_summary(job) for job in found], next_cursor=None if offset is None else str(offset))
    )


async def get_job(call: CallDep, job_type: models.JobTypeName, job_id: models.JobId) -> Response:
    """Get one job: its state, progress, result or error."""
    return Json(job_view(await call.job(job_type, job_id)))


async def get_result(
    call: CallDep,
    job_type: models.JobTypeName,
    job_id: models.JobId,
    timeout_s: Annotated[
        float, Query(ge=0, le=3600, description="How long to wait; the server has its own bound.")
    ] = 30,
) -> Response:
    """Wait until a job has ended.

    Answers 200 with the job once it is completed or failed, and 202 with the job as it is when the time is up or the
    server is about to stop: ask again then.
    """
    status = await call.job(job_type, job_id)
    wait = min(timedelta(seconds=timeout_s), call.api.settings.long_poll_max)
    if status.state not in FINISHED and wait > timedelta(0):
        await _wait(call, job_type, job_id, wait)
        status = await call.job(job_type, job_id)
    return Json(job_view(status), status_code=200 if status.state in FINISHED else 202)


async def _wait(call: Call, job_type: str, job_id: str, wait: timedelta) -> None:
    """Return when the job has ended, the time is up, or the server is about to stop."""
    ended = asyncio.ensure_future(call.corral.wait_for_result((job_type, job_id), timeout=wait))
    closing = asyncio.ensure_future(call.api.closing.wait())
    try:
        await asyncio.wait({ended, closing}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            ended.result()
    except (JobFailed, JobNotFound, ResultTimedOut):
        pass  # the job's status says so
    finally:
        for task in (ended, closing):
            task.cancel()
        await asyncio.gather(ended, closing, return_exceptions=True)


async def get_logs(
    call: CallDep,
    job_type: models.JobTypeName,
    job_id: models.JobId,
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Response:
    """Get a job's log lines, oldest first."""
    await call.job(job_type, job_id)
    logs = await call.corral.get_job_logs(job_type, job_id, offset=offset, limit=limit)
    return Json(models.LogPage(lines=list(logs.lines), total=logs.total, next_offset=offset + len(logs.lines)))


async def cancel_job(
    call: CallDep, job_type: models.JobTypeName, job_id: models.JobId, body: models.CancelJob | None = None
) -> Response:
    """Cancel a job.

    One that hasn't started is removed. An active one's handler is told to stop; the job then ends as failed, with the
    reason.
    """
    await call.job(job_type, job_id)
    reason = body.reason if body else ""
    outcome = await call.corral.cancel_job(job_type, job_id, reason=reason, by=call.principal.user_id)
    return Json(models.CancelOutcome(id=job_id, job_type=job_type, outcome=outcome))


async def retry_job(call: CallDep, job_type: models.JobTypeName, job_id: models.JobId) -> Response:
    """Run a failed or completed job again."""
    await call.job(job_type, job_id)
    await call.corral.retry_job(job_type, job_id)
    return Json(job_view(await call.job(job_type, job_id)))


async def promote_job(call: CallDep, job_type: models.JobTypeName, job_id: models.JobId) -> Response:
    """Run a delayed job now."""
    await call.job(job_type, job_id)
    await call.corral.promote_job(job_type, job_id)
    return Json(job_view(await call.job(job_type, job_id)))


async def remove_job(call: CallDep, job_type: models.JobTypeName, job_id: models.JobId) -> Response:
    """Remove a job that isn't active, with its logs."""
    await call.job(job_type, job_id)
    await call.corral.remove_job(job_type, job_id)
    return Response(status_code=204)
