"""What happens in a queue, as BullMQ writes it to a stream; and waiting for a job's end without asking again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from corral.errors import JobCancelled, JobFailed, JobNotFound, ResultTimedOut, StoreUnavailable
from corral.queue.queue import Queue
from corral.queue.status import CANCELLED_PREFIX
from corral.wire.codec import fields
from corral.wire.pipe import Connector, Pipe, ReplyError, pack, reply_failure

logger = logging.getLogger("corral.queue")

_BLOCK_MS = 30_000
_BATCH = 1_000
_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class QueueEvent:
    """One thing that happened.

    Attributes:
        id: Its place in the stream; give it as ``after`` to go on from here.
        name: ``added``, ``waiting``, ``active``, ``progress``, ``completed``, ``failed``, ``delayed``, ``stalled``,
            ``removed``, ``duplicated``, ``drained``, ``paused``, ``resumed``, ``cleaned``, ``retries-exhausted``, …
        job_id: None for what concerns the whole queue.
        fields: The rest, as text: ``returnvalue``, ``failedReason``, ``prev``, ``data``, …
    """

    id: str
    name: str
    job_id: str | None
    fields: Mapping[str, str]


def _read(entries: Any) -> list[QueueEvent]:
    events = []
    for event_id, flat in entries:
        values = fields(flat)
        name, job_id = values.pop("event", ""), values.pop("jobId", None)
        events.append(QueueEvent(str(event_id), name, job_id, values))
    return events


class EventReader:
    """Reads one queue's events, on a connection of its own that exists while somebody reads."""

    def __init__(self, queue: Queue, connector: Connector) -> None:
        self._key = queue.keys.events
        self._connector = connector

    async def follow(self, after: str | None = None) -> AsyncGenerator[QueueEvent, None]:
        """Yield what happens, and go on through outages of Redis.

        Args:
            after: A stream id; None begins with what happens next. What was trimmed meanwhile (BullMQ keeps about
                10,000 events a queue) is gone.

        Raises:
            StoreUnavailable: Redis can't be reached at the beginning.
            StoreError: It refuses to be asked.
        """
        pipe = Pipe(self._connector, answer_timeout=None)
        await pipe.open()
        try:
            async for events in self.batches(pipe, after or await self.last_id(pipe)):
                for event in events:
                    yield event
        finally:
            await pipe.close()

    async def last_id(self, pipe: Pipe) -> str:
        """Where the stream ends now; ``0-0`` when it is empty."""
        newest = await pipe.execute("XREVRANGE", self._key, "+", "-", "COUNT", 1)
        return str(newest[0][0]) if newest else "0-0"

    async def batches(self, pipe: Pipe, last: str) -> AsyncGenerator[list[QueueEvent], None]:
        """Yield what is added to the stream after an id; an empty list after half a minute of nothing.

        Args:
            pipe: Without a time-out for answers; used for nothing else.
            last: A stream id.

        Raises:
            StoreError: Redis refuses to be asked, and waiting won't help.
        """
        while True:
            try:
                reply = await pipe.send(pack("XREAD", "COUNT", _BATCH, "BLOCK", _BLOCK_MS, "STREAMS", self._key, last))
            except StoreUnavailable:
                await pipe.wait_connected()
                continue
            if isinstance(reply, ReplyError):
                await _sit_out(pipe, reply)
                continue
            events = _read(reply[0][1]) if reply else []
            last = events[-1].id if events else last
            yield events


async def _sit_out(pipe: Pipe, refusal: ReplyError) -> None:
    """Wait a moment when a refusal is a passing one, as in a failover; raise what it means when it is not."""
    failure = reply_failure(refusal)
    if not isinstance(failure, StoreUnavailable):
        raise failure
    logger.debug("%s", failure)
    if str(refusal).startswith("MOVED"):
        pipe.drop()  # somebody else has the stream now: ask again who
    await asyncio.sleep(_PAUSE_S)


class ResultWaiter:
    """Waits for the ends of a queue's jobs: one reader for all who wait, none when nobody does."""

    def __init__(self, queue: Queue, connector: Connector) -> None:
        self._queue = queue
        self._connector = connector
        self._waiting: dict[str, list[asyncio.Future[QueueEvent | None]]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._reading = asyncio.Event()

    async def result(self, job_id: str, timeout: timedelta | None) -> Any:
        """The job's result, when it is completed.

        Raises:
            JobFailed: It failed; ``JobCancelled`` when somebody cancelled it.
            JobNotFound: It was removed, or never was.
            ResultTimedOut: It has not ended in time.
        """
        future = self._expect(job_id)
        try:
            async with asyncio.timeout(timeout.total_seconds() if timeout is not None else None):
                while True:
                    # Each time: the reader ends with the last who waits, and just now that may have been another.
                    await self._start()
                    ended, value = await self._outcome(job_id)
                    if ended:
                        return value
                    event = await future
                    if event is not None:
                        return self._told(event)
                    future = self._expect(job_id)
        except TimeoutError:
            raise ResultTimedOut(
                f"Job {job_id!r} of {self._queue.spec.name!r} has not ended within {timeout}; it goes on."
            ) from None
        finally:
            self._forget(job_id, future)

    def _expect(self, job_id: str) -> asyncio.Future[QueueEvent | None]:
        future: asyncio.Future[QueueEvent | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(job_id, []).append(future)
        return future

    def _forget(self, job_id: str, future: asyncio.Future[QueueEvent | None]) -> None:
        futures = self._waiting.get(job_id)
        if futures is not None:
            with contextlib.suppress(ValueError):
                futures.remove(future)
            if not futures:
                del self._waiting[job_id]
        if not self._waiting and self._reader is not None:
            self._reader.cancel()
            self._reader = None
            self._reading.clear()

    async def close(self) -> None:
        """End the reader; whoever waits gets a StoreUnavailable."""
        self._fail_all(StoreUnavailable("The connection was closed while a result was awaited."))
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _start(self) -> None:
        """Return when the stream is being read."""
        if self._reader is not None and not self._reader.done() and self._reading.is_set():
            return
        if self._reader is None or self._reader.done():
            self._reading.clear()
            self._reader = asyncio.get_running_loop().create_task(self._read(), name="corral-results")
            # Whoever waits is told of its failure in another way.
            self._reader.add_done_callback(lambda reader: reader.cancelled() or reader.exception())
        reading = asyncio.ensure_future(self._reading.wait())
        await asyncio.wait({reading, self._reader}, return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        if self._reader.done() and not self._reader.cancelled():
            self._reader.result()

    async def _read(self) -> None:
        pipe = Pipe(self._connector, answer_timeout=None)
        await pipe.open()
        # Events that were missed during an outage may have been trimmed: everybody looks for themselves.
        pipe.on_reconnect.append(self._wake_all)
        reader = EventReader(self._queue, self._connector)
        try:
            last = await reader.last_id(pipe)
            self._reading.set()
            async for events in reader.batches(pipe, last):
                if not events:
                    self._wake_all()
                for event in events:
                    if event.job_id is not None and event.name in {"completed", "failed", "removed"}:
                        self._wake(event.job_id, event)
        except Exception as error:
            self._fail_all(error)
            raise
        finally:
            await pipe.close()

    def _wake(self, job_id: str, event: QueueEvent | None) -> None:
        for future in self._waiting.pop(job_id, ()):
            if not future.done():
                future.set_result(event)

    def _wake_all(self) -> None:
        """Let everybody who waits ask for themselves."""
        for job_id in list(self._waiting):
            self._wake(job_id, None)

    def _fail_all(self, error: Exception) -> None:
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)

    def _told(self, event: QueueEvent) -> Any:
        """What an event says of a job: it holds the result, so that a job that is kept no longer has one too."""
        if event.name == "completed":
            return self._queue.spec.decode_result(event.fields.get("returnvalue"))
        if event.name == "failed":
            raise self._failure(event.job_id or "", event.fields.get("failedReason", ""))
        raise JobCancelled(
            f"Job {event.job_id!r} of {self._queue.spec.name!r} was removed before it ended.",
            job_id=event.job_id or "",
            reason="removed",
        )

    def _failure(self, job_id: str, reason: str) -> JobFailed:
        kind = JobCancelled if reason.startswith(CANCELLED_PREFIX) else JobFailed
        return kind(f"Job {job_id!r} of {self._queue.spec.name!r} failed: {reason}", job_id=job_id, reason=reason)

    async def _outcome(self, job_id: str) -> tuple[bool, Any]:
        """Whether the job has ended, and its result; asked again when the connection breaks before the answer.

        Raises:
            StoreUnavailable: Redis did not come back for a while.
        """
        while True:
            await self._queue.ready()
            try:
                return await self._ask(job_id)
            except StoreUnavailable as error:
                logger.debug("%s", error)
                await asyncio.sleep(_PAUSE_S)

    async def _ask(self, job_id: str) -> tuple[bool, Any]:
        """Whether the job has ended, and its result.

        Wire:
            isFinished; KEYS completed, failed, job; ARGV id, "1" to return the value; replies [0], [1, value],
            [2, reason] or [-1, text].
        """
        k = self._queue.keys
        reply = await self._queue.scripts.run("isFinished", (k.completed, k.failed, k.job(job_id)), (job_id, "1"))
        code, value = int(reply[0]), (reply[1] if len(reply) > 1 else None)
        if code == 0:
            return False, None
        if code == 1:
            return True, self._queue.spec.decode_result(value)
        if code == -1:
            # A job that isn't kept is gone with its end; its event is still there for a while.
            event = await self._ending_event(job_id)
            if event is not None:
                return True, self._told(event)
            raise JobNotFound(
                f"Queue {self._queue.spec.name!r} has no job {job_id!r}: it never had one, or it was removed or kept "
                "no longer."
            )
        raise self._failure(job_id, str(value or ""))

    async def _ending_event(self, job_id: str) -> QueueEvent | None:
        """The newest event that tells of a job's end, as far back as the stream goes."""
        newest = "+"
        while True:
            entries = await self._queue.scripts.pipe.execute(
                "XREVRANGE", self._queue.keys.events, newest, "-", "COUNT", _BATCH
            )
            for event in _read(entries):
                if event.job_id == job_id and event.name in {"completed", "failed"}:
                    return event
            if len(entries) < _BATCH:
                return None
            newest = f"({entries[-1][0]}"
