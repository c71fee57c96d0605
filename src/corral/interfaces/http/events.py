"""Live events as Server-Sent Events: of a queue, and of one job with its log lines as they come.

A client that lost its connection goes on where it was: its ``Last-Event-ID`` is the event's place in the queue's own
stream (and, for a job, how many log lines it has), which every server process understands.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Header
from starlette.responses import Response, StreamingResponse

from corral.errors import JobNotFound
from corral.interfaces.http import models
from corral.interfaces.http.context import Api, Call, CallDep
from corral.interfaces.http.jobs import FINISHED
from corral.interfaces.http.problems import HttpProblem
from corral.interfaces.http.routes import endpoint, json_bytes
from corral.interfaces.http.views import job_summary, job_view

if TYPE_CHECKING:
    from corral.queue.status import JobStatus

_HEARTBEAT_S: Final = 15.0
_LOG_POLL_S: Final = 1.0
"""BullMQ's stream tells nothing of log lines, so an active job's log is looked at this often."""
_PLACE: Final = re.compile(r"(\d{1,20}-\d{1,20})(?:/(\d{1,12}))?")
_KNOWN_JOBS: Final = 2048
_SSE: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Events, until the client leaves.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", max_length=64, description="Where to go on: the `id` of the last event received."),
]


def add_routes(router: APIRouter) -> None:
    """Add the endpoints."""
    endpoint(router, "GET", "/jobs/{job_type}/{job_id}/events", stream_job, scope="read", answers=None,
             problems=(404,), more=_SSE)  # fmt: skip
    endpoint(router, "GET", "/queues/{job_type}/events", stream_queue, scope="read", answers=None, problems=(404,),
             more=_SSE)  # fmt: skip


async def stream_job(
    call: CallDep, job_type: models.JobTypeName, job_id: models.JobId, last: LastEventId = None
) -> Response:
    """Follow one job.

    Events: `job` (the whole job, at first and whenever it changes), `log` (`{"lines": […], "nextOffset": n}`), and
    `end` when it is completed or failed (`{"state": …}`), after which the stream ends. Goes on by `Last-Event-ID`.
    """
    await call.job(job_type, job_id)
    place, seen_lines = _parse(last)
    return sse(call.api, job_events(call, job_type, job_id, after=place, log_offset=seen_lines))


async def stream_queue(call: CallDep, job_type: models.JobTypeName, last: LastEventId = None) -> Response:
    """Follow a queue.

    The event's name is BullMQ's (`added`, `waiting`, `active`, `progress`, `completed`, `failed`, …), its data
    `{"jobId": …, "job": {…}}`. Callers without `manage` get events of their own jobs only. Goes on by `Last-Event-ID`.
    """
    place, _ = _parse(last)
    return sse(call.api, queue_events(call, call.known(job_type), after=place))


def _parse(last: str | None) -> tuple[str, int]:
    if last is None:
        return "$", 0
    match = _PLACE.fullmatch(last)
    if match is None:
        raise HttpProblem(
            422, "request-invalid", "The request is not of the expected form",
            "header:Last-Event-ID: expected the id of an earlier event",
        )  # fmt: skip
    return match[1], int(match[2] or 0)


def sse(api: Api, events: AsyncIterator[bytes]) -> Response:
    """An endless answer that ends when the client leaves or the server is about to stop."""
    return StreamingResponse(
        _until_closing(api, events),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _until_closing(api: Api, events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield b"retry: 2000\n\n"
    closing = asyncio.ensure_future(api.closing.wait())
    following: asyncio.Future[bytes] | None = None
    try:
        while True:
            following = following or asyncio.ensure_future(_next(events))
            done, _ = await asyncio.wait(
                {following, closing}, timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED
            )
            if closing in done:
                return
            if following in done:
                try:
                    yield following.result()
                except StopAsyncIteration:
                    return
                following = None
            else:
                yield b": still here\n\n"
    finally:
        closing.cancel()
        if following is not None:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await following
        await events.aclose()  # type: ignore[attr-defined]  # an async generator


async def _next(events: AsyncIterator[bytes]) -> bytes:
    try:
        return await anext(events)
    except StopAsyncIteration:
        # A Future can't carry StopAsyncIteration out of a coroutine unchanged on every Python.
        raise _Ended from None


class _Ended(StopAsyncIteration):
    """The events are over."""


def encode(name: str, data: Any, *, event_id: str | None = None) -> bytes:
    """One event; JSON holds no line break, so one ``data`` line does."""
    head = f"id: {event_id}\n" if event_id else ""
    body = json_bytes(data)
    return f"{head}event: {name}\ndata: ".encode() + body + b"\n\n"


async def job_events(
    call: Call,
    job_type: str,
    job_id: str,
    *,
    after: str = "$",
    log_offset: int = 0,
    show: Callable[[JobStatus], Any] = job_view,
) -> AsyncIterator[bytes]:
    """Everything about one job until it ends.

    The stream only says that something happened; what is sent is the job as it is, so nothing can be missed between
    the first look and the stream's first event.
    """
    changes: asyncio.Queue[str] = asyncio.Queue(maxsize=1000)
    if after == "$":
        after = await last_event_id(call, job_type)
    place = after

    async def follow() -> None:
        async for event in call.corral.events(job_type, after=after):
            if event.job_id == job_id:
                await changes.put(event.id)

    follower = asyncio.create_task(follow())
    shown: Any = None
    try:
        while True:
            try:
                status = await call.job(job_type, job_id)
            except JobNotFound:
                yield encode("end", {"state": "removed"}, event_id=f"{place}/{log_offset}")
                return
            logs = await call.corral.get_job_logs(job_type, job_id, offset=log_offset, limit=1000)
            if logs.lines:
                log_offset += len(logs.lines)
                payload = {"lines": list(logs.lines), "nextOffset": log_offset}
                yield encode("log", payload, event_id=f"{place}/{log_offset}")
            if status != shown:
                shown = status
                yield encode("job", show(status), event_id=f"{place}/{log_offset}")
            if status.state in FINISHED and log_offset >= logs.total:
                yield encode("end", {"state": status.state}, event_id=f"{place}/{log_offset}")
                return
            if log_offset < logs.total:
                continue
            with contextlib.suppress(TimeoutError):
                place = await asyncio.wait_for(changes.get(), _LOG_POLL_S)
                while not changes.empty():
                    place = changes.get_nowait()
            if follower.done():
                follower.result()
    finally:
        follower.cancel()
        await asyncio.gather(follower, return_exceptions=True)


async def queue_events(
    call: Call, job_type: str, *, after: str = "$", show: Callable[[JobStatus], Any] = job_summary
) -> AsyncIterator[bytes]:
    """What happens in a queue, as far as the caller may see it."""
    visible: dict[str, bool] = {}
    if after == "$":
        after = await last_event_id(call, job_type)
    yield encode("ready", {"jobType": job_type}, event_id=after)
    async for event in call.corral.events(job_type, after=after):
        if event.job_id is None:
            yield encode(event.name, {"jobId": None}, event_id=event.id)
            continue
        may_see: Callable[[JobStatus], Awaitable[bool]] = call.may_see
        try:
            status = await call.corral.get_job_status(job_type, event.job_id)
            seen = await may_see(status)
        except JobNotFound:
            status, seen = None, call.principal.sees_everyone or visible.get(event.job_id, False)
        if len(visible) >= _KNOWN_JOBS:
            visible.clear()
        visible[event.job_id] = seen
        if seen:
            job = show(status) if status is not None else None
            yield encode(event.name, {"jobId": event.job_id, "job": job}, event_id=event.id)


async def last_event_id(call: Call, job_type: str) -> str:
    """The newest place in the queue's stream, so that what happens from now on isn't missed while connecting."""
    return await call.corral.last_event_id(job_type)
