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

from fastapi import Header
from starlette.responses import Response, StreamingResponse

from corral.errors import JobNotFound
from corral.interfaces.http import models
from corral.interfaces.http.context import Api, Call, CallDep
from corral.interfaces.http.jobs import FINISHED
from corral.interfaces.http.problems import HttpProblem
from corral.interfaces.http.routes import Section, endpoint, json_bytes
from corral.interfaces.http.views import job_summary, job_view
from corral.wire.keys import QueueKeys

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


def add_routes(section: Section) -> None:
    """Add the endpoints."""
    endpoint(section, "GET", "/jobs/{job_type}/{job_id}/events", stream_job, scope="read", answers=None,
             problems=(404,), more=_SSE)  # fmt: skip
    endpoint(section, "GET", "/queues/{job_type}/events", stream_queue, scope="read", answers=None, problems=(404,),
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


def _parse(last: str | None) -> tuple[str | None, int]:
    if last is None:
        return None, 0
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
    following: asyncio.Task[bytes | None] | None = None
    try:
        while not closing.done():
            following = following or asyncio.create_task(_next(events))
            waiting: set[asyncio.Future[Any]] = {following, closing}
            done, _ = await asyncio.wait(waiting, timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                yield b": still here\n\n"
            elif following in done:
                event, following = following.result(), None
                if event is None:
                    return
                yield event
    finally:
        closing.cancel()
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        await events.aclose()  # type: ignore[attr-defined]  # an async generator


async def _next(events: AsyncIterator[bytes]) -> bytes | None:
    return await anext(events, None)


def encode(name: str, data: Any, *, event_id: str | None = None) -> bytes:
    """One event; JSON holds no line break, so one ``data`` line does."""
    head = f"id: {event_id}\n" if event_id else ""
    body = json_bytes(data)
    return f"{head}event: {name}\ndata: ".encode() + body + b"\n\n"


class Follower:
    """Hears of one job in its queue's stream."""

    def __init__(self, call: Call, job_type: str, job_id: str, after: str) -> None:
        self.place = after
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._follow(call, job_type, job_id, after))

    async def _follow(self, call: Call, job_type: str, job_id: str, after: str) -> None:
        async for event in call.corral.events(job_type, after=after):
            if event.job_id == job_id:
                self.place = event.id
                self._changed.set()

    async def wait(self, seconds: float) -> None:
        """Return after something happened, or after some time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()
        if self._task.done():
            self._task.result()  # it ends only by an error

    async def close(self) -> None:
        """Hear no more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def job_events(
    call: Call,
    job_type: str,
    job_id: str,
    *,
    after: str | None = None,
    log_offset: int = 0,
    show: Callable[[JobStatus], Any] = job_view,
) -> AsyncIterator[bytes]:
    """Everything about one job until it ends.

    The stream only says that something happened; what is sent is the job as it is, so nothing can be missed between
    the first look and the stream's first event.
    """
    follower = Follower(call, job_type, job_id, after or await last_event_id(call, job_type))
    shown: JobStatus | None = None
    try:
        while True:
            place = follower.place
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
            if log_offset < logs.total:
                continue
            if status.state in FINISHED:
                yield encode("end", {"state": status.state}, event_id=f"{place}/{log_offset}")
                return
            await follower.wait(_LOG_POLL_S)
    finally:
        await follower.close()


async def queue_events(
    call: Call, job_type: str, *, after: str | None = None, show: Callable[[JobStatus], Any] = job_summary
) -> AsyncIterator[bytes]:
    """What happens in a queue, as far as the caller may see it."""
    visible: dict[str, bool] = {}
    if after is None:
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
    newest = await call.corral.redis.xrevrange(QueueKeys(call.corral.prefix, job_type).events, count=1)
    return str(newest[0][0]) if newest else "0-0"
