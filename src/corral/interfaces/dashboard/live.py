"""What is sent to a page while somebody looks at it: the parts of it that have changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Final

from fastapi import Query
from starlette.responses import Response

from corral.errors import JobNotFound
from corral.interfaces.dashboard.door import Visit, VisitDep, find_session
from corral.interfaces.dashboard.pages import Parts, job_parts, overview_parts, queue_parts, workers_parts
from corral.interfaces.dashboard.rendering import SECURITY_HEADERS
from corral.interfaces.http.events import Follower, encode, last_event_id, sse
from corral.interfaces.http.models import JobId, JobTypeName

_TICK_S: Final = 1.0
_SLOW_TICKS: Final = 10
_CHECK_TICKS: Final = 15
"""A login that has ended stops its streams within so many ticks."""


def _answer(visit: Visit, events: AsyncIterator[bytes]) -> Response:
    answer = sse(visit.api, events)
    answer.headers.update(SECURITY_HEADERS)
    return answer


async def _ticking(visit: Visit, parts: Callable[[int], Awaitable[Parts]]) -> AsyncIterator[bytes]:
    sent: dict[str, str] = {}
    number = 0
    while True:
        if number % _CHECK_TICKS == _CHECK_TICKS - 1:
            await find_session(visit.api, visit.request)
        for name, html in (await parts(number)).items():
            if sent.get(name) != html:
                sent[name] = html
                yield encode("part", {"id": name, "html": html})
        number += 1
        await asyncio.sleep(_TICK_S)


async def live_overview(visit: VisitDep) -> Response:
    """The overview's changes."""
    return _answer(visit, _ticking(visit, lambda _: overview_parts(visit)))


async def live_workers(visit: VisitDep) -> Response:
    """The workers' changes."""
    return _answer(visit, _ticking(visit, lambda _: workers_parts(visit)))


async def live_queue(
    visit: VisitDep,
    job_type: JobTypeName,
    state: Annotated[str, Query(max_length=20)] = "",
    span: Annotated[str, Query(pattern="^(hour|day)$")] = "hour",
) -> Response:
    """A queue's changes."""
    visit.call.known(job_type)
    return _answer(
        visit,
        _ticking(visit, lambda tick: queue_parts(visit, job_type, state, span, charts=tick % _SLOW_TICKS == 0)),
    )


async def live_job(
    visit: VisitDep, job_type: JobTypeName, job_id: JobId, offset: Annotated[int, Query(ge=0, le=10**12)] = 0
) -> Response:
    """A job's changes, at once, and its log lines as they come."""
    await visit.call.job(job_type, job_id)
    return _answer(visit, _job(visit, job_type, job_id, offset))


async def _job(visit: Visit, job_type: str, job_id: str, offset: int) -> AsyncIterator[bytes]:
    call, corral = visit.call, visit.api.corral
    follower = Follower(call, job_type, job_id, await last_event_id(call, job_type))
    sent: dict[str, str] = {}
    number = 0
    try:
        while True:
            if number % _CHECK_TICKS == _CHECK_TICKS - 1:
                await find_session(visit.api, visit.request)
            number += 1
            try:
                status = await call.job(job_type, job_id)
            except JobNotFound:
                yield encode("gone", {})
                return
            for name, html in (await job_parts(visit, status)).items():
                if sent.get(name) != html:
                    sent[name] = html
                    yield encode("part", {"id": name, "html": html})
            logs = await corral.get_job_logs(job_type, job_id, offset=offset, limit=1000)
            if logs.lines:
                offset += len(logs.lines)
                # The browser comes back with this place after a broken connection.
                yield encode("log", {"lines": list(logs.lines), "next": offset})
            if offset >= logs.total:
                await follower.wait(_TICK_S)
    finally:
        await follower.close()
