"""The pages, and the parts of them that are sent again while somebody looks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import Query
from markupsafe import Markup
from pydantic import ValidationError
from starlette.responses import Response

from corral.errors import JobNotFound, UnknownJobType
from corral.interfaces.dashboard import presenting
from corral.interfaces.dashboard.charts import (
    Percentiles,
    busiest,
    failure_chart,
    latency_chart,
    slowest,
    sparkline,
    throughput_chart,
)
from corral.interfaces.dashboard.door import Visit, VisitDep
from corral.interfaces.dashboard.rendering import render
from corral.interfaces.http.listing import JobFilter, find_jobs
from corral.interfaces.http.models import JobId, JobTypeName
from corral.interfaces.http.views import project_of
from corral.jobs.job_type import JobType
from corral.pipeline import PIPELINE, STEPS, Step, reported_steps
from corral.queue.family import Relative, children_of, relative
from corral.queue.history import Stretch, oldest_waiting, read_history
from corral.queue.job import JobState
from corral.wire.keys import QueueKeys

if TYPE_CHECKING:
    from corral.queue.status import JobStatus

Parts = dict[str, Markup]
_PAGE: Final = 50
#: Users that a queue's page lists.
_USERS = 20
_HOUR: Final = (timedelta(hours=1), 60)
_GLANCE: Final = 12
"""Into how many parts the overview cuts the last hour."""
_DAY: Final = (timedelta(hours=24), 96)
_TABS: Final = ("", "active", "waiting", "delayed", "waiting-children", "failed", "completed")
_STEP_ID: Final = re.compile(rf"{PIPELINE}-(.+)-[0-9.]+-(?:{'|'.join(JobType)})")
_FLOW_DEPTH: Final = 6
_FLOW_NODES: Final = 60
_JOBS_LOOKED_AT: Final = 50
Text = Annotated[str, Query(max_length=200)]


def _part(visit: Visit, template: str, **values: Any) -> Markup:
    return Markup(render(template, **visit.common, **values))  # noqa: S704 - Jinja has escaped the values in it


def _keys(visit: Visit, job_type: str) -> QueueKeys:
    return QueueKeys(visit.api.corral.prefix, job_type)


# --- all queues


async def overview(visit: VisitDep) -> Response:
    """All queues at a glance."""
    return visit.page("overview.html", title="Queues", parts=await overview_parts(visit), live="/live/overview")


async def overview_parts(visit: Visit) -> Parts:
    """What changes on it."""
    rows = await asyncio.gather(*(_row(visit, name) for name in sorted(visit.api.corral.job_types)))
    totals = {
        "waiting": sum(row["stats"].waiting for row in rows),
        "active": sum(row["stats"].active for row in rows),
        "delayed": sum(row["stats"].delayed for row in rows),
        "per_minute": sum(row["per_minute"] for row in rows),
        "completed": sum(row["completed"] for row in rows),
        "failed": sum(row["failed"] for row in rows),
        "oldest": min((row["oldest"] for row in rows if row["oldest"]), default=None),
    }
    together = [_merged(some) for some in zip(*(row["history"] for row in rows), strict=True)]
    charts = _charts(visit, together, "hour", _HOUR[0] / _GLANCE) if together else Markup("")
    return {"queues": _part(visit, "part_queues.html", rows=rows, totals=totals, charts=charts)}


def _merged(some: Sequence[Stretch]) -> Stretch:
    """One stretch of several queues."""
    return Stretch(
        start=some[0].start,
        completed=sum(one.completed for one in some),
        failed=sum(one.failed for one in some),
        wait_s=tuple(value for one in some for value in one.wait_s),
        run_s=tuple(value for one in some for value in one.run_s),
    )


async def _row(visit: Visit, job_type: str) -> dict[str, Any]:
    corral, keys = visit.api.corral, _keys(visit, job_type)
    stats, oldest, history = await asyncio.gather(
        corral.get_queue_stats(job_type),
        oldest_waiting(corral.redis, keys),
        read_history(corral.redis, keys, span=_HOUR[0], stretches=_GLANCE),
    )
    completed = sum(one.completed for one in history)
    failed = sum(one.failed for one in history)
    return {
        "stats": stats,
        "oldest": oldest,
        "per_minute": sum(one.completed + one.failed for one in history[-2:]) / 10,
        "history": history,
        "completed": completed,
        "failed": failed,
        "failures": failed / (completed + failed) if completed + failed else 0.0,
        "spark": sparkline(
            [one.completed + one.failed for one in history], f"{completed + failed} ended in the last hour"
        ),
    }


# --- jobs


async def jobs(  # noqa: PLR0917 - FastAPI gives them by name
    visit: VisitDep,
    job_type: Annotated[str, Query(alias="type", max_length=128)] = "",
    state: Annotated[str, Query(max_length=20)] = "",
    user: Text = "",
    project: Text = "",
    text: Text = "",
    cursor: Annotated[int, Query(ge=0, le=10**15)] = 0,
) -> Response:
    """Jobs by state, type, user, project and text."""
    query = {"type": job_type, "state": state, "user": user, "project": project, "text": text}
    parts = {"jobs": await _jobs_part(visit, query, cursor)}
    return visit.page("jobs.html", title="Jobs", query=query, states=list(JobState), parts=parts, live=None)


async def _jobs_part(visit: Visit, query: Mapping[str, str], cursor: int = 0) -> Markup:
    call = visit.call
    types = [call.known(query["type"])] if query["type"] else sorted(visit.api.corral.job_types)
    states = _states(query["state"])
    wanted = JobFilter(user_id=query["user"] or None, project_id=query["project"] or None, text=query["text"] or None)
    found: list[JobStatus] = []
    following: int | None = None
    for name in types:
        some, following = await find_jobs(
            visit.api.corral,
            name,
            states,
            wanted=wanted,
            may_see=call.may_see,
            offset=cursor if len(types) == 1 else 0,
            limit=_PAGE if len(types) == 1 else 20,
            newest_first=True,
            sees_everyone=call.principal.sees_everyone,
        )
        found += some
    if len(types) > 1:
        found.sort(key=lambda job: job.created_at.timestamp() if job.created_at else 0.0, reverse=True)
        following = None
    return _part(
        visit, "part_jobs.html", jobs=found, query=query, following=following, searched=wanted != JobFilter(),
        project_of=_project, several=len(types) > 1,
    )  # fmt: skip


def _project(job: JobStatus) -> str:
    found = job.data.get("projectId") if isinstance(job.data, Mapping) else None
    return found if isinstance(found, str) else ""


def _states(state: str) -> list[JobState] | None:
    if state == JobState.WAITING:
        return [JobState.WAITING, JobState.PRIORITIZED]
    return [JobState(state)] if state in set(JobState) else None


# --- one queue


async def queue(
    visit: VisitDep,
    job_type: JobTypeName,
    state: Annotated[str, Query(max_length=20)] = "",
    span: Annotated[str, Query(pattern="^(hour|day)$")] = "hour",
    cursor: Annotated[int, Query(ge=0, le=10**15)] = 0,
) -> Response:
    """One queue: its jobs, its past hour or day, its workers."""
    visit.call.known(job_type)
    live = f"/live/queues/{job_type}?state={state}&span={span}"
    parts = await queue_parts(visit, job_type, state, span, cursor=cursor, charts=True)
    return visit.page(
        "queue.html", title=job_type, section="Queues", job_type=job_type, state=state, span=span, parts=parts,
        live=None if cursor else live, tabs=_TABS,
    )  # fmt: skip


async def queue_parts(
    visit: Visit, job_type: str, state: str, span: str, *, cursor: int = 0, charts: bool = True
) -> Parts:
    """What changes on it; the charts less often than the rest."""
    corral = visit.api.corral
    query = {"type": job_type, "state": state, "user": "", "project": "", "text": ""}
    stats, listed = await asyncio.gather(corral.get_queue_stats(job_type), _jobs_part(visit, query, cursor))
    parts = {"figures": _part(visit, "part_figures.html", stats=stats), "jobs": listed}
    if charts:
        length, stretches = _DAY if span == "day" else _HOUR
        history = await read_history(corral.redis, _keys(visit, job_type), span=length, stretches=stretches)
        parts["charts"] = _charts(visit, history, span, length / stretches)
        if visit.session.principal.sees_everyone:
            parts["workers"] = await _workers_part(visit, [job_type])
            if corral.job_types[job_type].per_user is not None:
                users = await corral.get_queue_users(job_type, limit=_USERS)
                parts["users"] = _part(visit, "part_users.html", users=users, job_type=job_type)
    return parts


def _charts(visit: Visit, history: list[Stretch], span: str, width: timedelta) -> Markup:
    waits = [value for one in history for value in one.wait_s]
    runs = [value for one in history for value in one.run_s]
    completed, failed = sum(one.completed for one in history), sum(one.failed for one in history)
    return _part(
        visit,
        "part_charts.html",
        times=_times(history, width * len(history)),
        width=width.total_seconds(),
        most=busiest(history),
        slowest=slowest(history),
        failures=failure_chart(history, f"Share of failed jobs in the last {span}: {failed} of {completed + failed}"),
        throughput=throughput_chart(history, f"Jobs ended in the last {span}: {completed} completed, {failed} failed"),
        latency=latency_chart(history, f"Time from due to done in the last {span}, median and 95th percentile"),
        completed=completed,
        failed=failed,
        wait=Percentiles.of(waits),
        run=Percentiles.of(runs),
    )


def _times(history: Sequence[Stretch], span: timedelta) -> list[str]:
    """What stands below a chart: its begin, its middle, its end."""
    begin = history[0].start
    return [f"{begin:%H:%M} UTC", f"{begin + span / 2:%H:%M}", "now"]


# --- one job


async def job(visit: VisitDep, job_type: JobTypeName, job_id: JobId) -> Response:
    """One job, with its logs as they come."""
    status = await visit.call.job(job_type, job_id)
    logs = await visit.api.corral.get_job_logs(job_type, job_id, limit=1000)
    parts = await job_parts(visit, status)
    live = f"/live/jobs/{job_type}/{job_id}?offset={len(logs.lines)}"
    return visit.page(
        "job.html", title=f"{job_type} {job_id}", section="Jobs", job=status, logs=logs, parts=parts, live=live
    )


async def job_parts(visit: Visit, status: JobStatus) -> Parts:
    """What changes on it."""
    shape, result = presenting.shape_of(status.result)
    own_page = presenting.pull_request_path(shape, result, project_of(status.data))
    pipeline = await _pipeline_of(visit, status)
    graph = (
        _part(visit, "part_pipeline.html", pipeline=pipeline, steps=_steps_of(pipeline), job=status)
        if pipeline is not None
        else _part(visit, "part_flow.html", nodes=await family_of(visit, status), job=status)
    )
    return {
        "head": _part(
            visit,
            "part_job.html",
            job=status,
            timeline=presenting.timeline(status),
            project=_project(status),
            waited=presenting.waited(status),
            ran=presenting.ran(status),
        ),
        "outcome": _part(
            visit,
            "part_outcome.html",
            job=status,
            result=result,
            shape=shape,
            own_page=own_page,
            failures=presenting.failures(status),
        ),
        "flow": graph,
    }


async def family_of(visit: Visit, status: JobStatus) -> list[tuple[int, JobStatus]]:
    """The flow that a job belongs to, as (depth, job) from the root on; empty when it stands alone."""
    prefix = visit.api.corral.prefix
    root, seen = status, {(status.job_type, status.id)}
    while root.parent is not None and (named := relative(root.parent, prefix)) is not None:
        above = await _look(visit, named)
        if above is None or (above.job_type, above.id) in seen:
            break
        root = above
        seen.add((root.job_type, root.id))
    found: list[tuple[int, JobStatus]] = []

    async def walk(node: JobStatus, depth: int) -> None:
        if len(found) >= _FLOW_NODES:
            return
        found.append((depth, node))
        if depth < _FLOW_DEPTH:
            for named in await children_of(visit.api.corral.redis, _keys(visit, node.job_type), node.id):
                child = await _look(visit, named)
                if child is not None:
                    await walk(child, depth + 1)

    await walk(root, 0)
    return found if len(found) > 1 else []


async def _pipeline_of(visit: Visit, status: JobStatus) -> JobStatus | None:
    """The pipeline job that this one is, or is a step of (their ids begin with its)."""
    if status.job_type == PIPELINE:
        return status
    match = _STEP_ID.fullmatch(status.id)
    return await _look(visit, Relative(PIPELINE, match[1])) if match else None


def _steps_of(pipeline: JobStatus) -> list[Step]:
    """All steps of a pipeline, those too that it hasn't reported yet."""
    try:
        reported = {step.job_type: step for step in reported_steps(pipeline)}
    except ValidationError:  # not a report of Corral's
        reported = {}
    return [reported.get(one) or Step(job_type=one, job_id="") for one in STEPS]


async def _look(visit: Visit, named: Relative) -> JobStatus | None:
    try:
        return await visit.call.job(named.job_type, named.id)
    except (JobNotFound, UnknownJobType):
        return None


# --- workers


async def workers(visit: VisitDep) -> Response:
    """All workers, and what each does now."""
    return visit.page("workers.html", title="Workers", parts=await workers_parts(visit), live="/live/workers")


async def workers_parts(visit: Visit) -> Parts:
    """What changes on it; those who see only their own jobs see no workers."""
    if not visit.session.principal.sees_everyone:
        return {"workers": _part(visit, "part_workers.html", workers=[], doing={})}
    return {"workers": await _workers_part(visit, sorted(visit.api.corral.job_types))}


async def _workers_part(visit: Visit, job_types: Sequence[str]) -> Markup:
    """Workers with the jobs in their hands; of the first ones, how far they are."""
    lists = await asyncio.gather(*(visit.api.corral.list_workers(name) for name in job_types))
    found = [one for some in lists for one in some]
    held = [Relative(one.job_type, job_id) for one in found for job_id in one.active][:_JOBS_LOOKED_AT]
    looked = await asyncio.gather(*(_look(visit, named) for named in held))
    doing = {(job.job_type, job.id): job for job in looked if job is not None}
    return _part(visit, "part_workers.html", workers=found, doing=doing)
