"""Queues over HTTP: figures, control, workers and schedules."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final

from starlette.responses import Response

from corral.interfaces.http import models
from corral.interfaces.http.context import CallDep
from corral.interfaces.http.routes import Json, Section, endpoint
from corral.interfaces.http.submission import own_data
from corral.interfaces.http.views import job_type_view, queue_view, schedule_view, worker_view

_QUEUE: Final = "/queues/{job_type}"
_SCHEDULE: Final = f"{_QUEUE}/schedules/{{schedule_id}}"


def add_routes(section: Section) -> None:
    """Add the endpoints."""
    view = models.QueueView
    endpoint(section, "GET", "/job-types", list_job_types, scope="read", answers=models.JobTypes)
    endpoint(section, "GET", "/queues", list_queues, scope="read", answers=models.Queues)
    endpoint(section, "GET", _QUEUE, get_queue, scope="read", answers=view, problems=(404,))
    endpoint(section, "POST", f"{_QUEUE}/pause", pause_queue, scope="manage", answers=view, problems=(404,))
    endpoint(section, "POST", f"{_QUEUE}/resume", resume_queue, scope="manage", answers=view, problems=(404,))
    endpoint(section, "POST", f"{_QUEUE}/clean", clean_queue, scope="manage", answers=models.Cleaned, problems=(404,))
    endpoint(section, "POST", f"{_QUEUE}/drain", drain_queue, scope="manage", answers=view, problems=(404,))
    endpoint(section, "POST", f"{_QUEUE}/retry", retry_jobs, scope="manage", answers=view, problems=(404,))
    endpoint(section, "GET", f"{_QUEUE}/workers", list_workers, scope="manage", answers=models.Workers, problems=(404,))
    endpoint(section, "GET", f"{_QUEUE}/users", list_users, scope="manage", answers=models.QueueUsers, problems=(404,))
    endpoint(section, "GET", f"{_QUEUE}/schedules", list_schedules, scope="manage", answers=models.Schedules,
             problems=(404,))  # fmt: skip
    endpoint(section, "PUT", _SCHEDULE, put_schedule, scope="manage", answers=models.ScheduleView, problems=(404,))
    endpoint(section, "DELETE", _SCHEDULE, delete_schedule, scope="manage", answers=None, status=204, problems=(404,))


async def list_job_types(call: CallDep) -> Response:
    """List the declared job types, with the JSON Schemas of their payloads and results."""
    return Json(models.JobTypes(job_types=[job_type_view(spec) for spec in call.corral.job_types.values()]))


async def list_queues(call: CallDep) -> Response:
    """Get the figures of all queues."""
    stats = await asyncio.gather(*(call.corral.get_queue_stats(name) for name in call.corral.job_types))
    return Json(models.Queues(queues=[queue_view(one) for one in stats]))


async def get_queue(call: CallDep, job_type: models.JobTypeName) -> Response:
    """Get the figures of one queue."""
    return Json(queue_view(await call.corral.get_queue_stats(call.known(job_type))))


async def pause_queue(call: CallDep, job_type: models.JobTypeName) -> Response:
    """Start no more of this queue's jobs; active ones go on."""
    await call.corral.pause_queue(call.known(job_type))
    return Json(queue_view(await call.corral.get_queue_stats(job_type)))


async def resume_queue(call: CallDep, job_type: models.JobTypeName) -> Response:
    """Start jobs again."""
    await call.corral.resume_queue(call.known(job_type))
    return Json(queue_view(await call.corral.get_queue_stats(job_type)))


async def clean_queue(call: CallDep, job_type: models.JobTypeName, body: models.CleanQueue | None = None) -> Response:
    """Remove old jobs; completed and failed ones of more than 24 hours ago when nothing else is said."""
    asked = body or models.CleanQueue()
    removed = await call.corral.clean_queue(
        call.known(job_type), asked.grace_ms, states=tuple(dict.fromkeys(asked.states)), limit=asked.limit
    )
    return Json(models.Cleaned(removed=removed))


async def drain_queue(call: CallDep, job_type: models.JobTypeName, body: models.DrainQueue | None = None) -> Response:
    """Remove all waiting jobs; delayed ones too when asked."""
    await call.corral.drain_queue(call.known(job_type), delayed=bool(body and body.delayed))
    return Json(queue_view(await call.corral.get_queue_stats(job_type)))


async def retry_jobs(call: CallDep, job_type: models.JobTypeName, body: models.RetryFailed | None = None) -> Response:
    """Run all failed (or all completed) jobs again."""
    asked = body or models.RetryFailed()
    await call.corral.retry_jobs(call.known(job_type), state=asked.state, limit=asked.limit)
    return Json(queue_view(await call.corral.get_queue_stats(job_type)))


async def list_workers(call: CallDep, job_type: models.JobTypeName) -> Response:
    """List the workers that serve this queue, with the jobs in their hands."""
    found = await call.corral.list_workers(call.known(job_type))
    return Json(models.Workers(workers=[worker_view(one) for one in found]))


async def list_users(call: CallDep, job_type: models.JobTypeName) -> Response:
    """List whose jobs wait and run in this queue: at most 100 users, counted over its first 2,000 waiting jobs."""
    found = await call.corral.get_queue_users(call.known(job_type))
    return Json(models.QueueUsers(users=[models.UserShareView.model_validate(one) for one in found]))


async def list_schedules(call: CallDep, job_type: models.JobTypeName) -> Response:
    """List this queue's schedules."""
    found = await call.corral.list_schedules(call.known(job_type))
    return Json(models.Schedules(schedules=[schedule_view(one) for one in found]))


async def put_schedule(
    call: CallDep,
    job_type: models.JobTypeName,
    schedule_id: models.ScheduleId,
    body: models.CronSchedule | models.IntervalSchedule,
) -> Response:
    """Add a schedule, or replace the one of this id."""
    data, _ = own_data(call, call.corral.job_types[call.known(job_type)], body.data)
    when: dict[str, Any] = (
        {"cron": body.cron, "time_zone": body.time_zone}
        if isinstance(body, models.CronSchedule)
        else {"every": timedelta(milliseconds=body.every_ms)}
    )
    await call.corral.add_schedule(job_type, schedule_id, data=data, limit=body.limit, **when)
    found = await call.corral.list_schedules(job_type)
    return Json(next(schedule_view(one) for one in found if one.id == schedule_id))


async def delete_schedule(call: CallDep, job_type: models.JobTypeName, schedule_id: models.ScheduleId) -> Response:
    """Remove a schedule; jobs that it has added stay."""
    await call.corral.remove_schedule(call.known(job_type), schedule_id)
    return Response(status_code=204)
