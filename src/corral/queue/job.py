"""A job as its handler sees it, as its producer gets it back, and as anyone who asks is told about it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

P = TypeVar("P")
R = TypeVar("R")
T = TypeVar("T")

Progress = float | int | Mapping[str, Any]
"""A number from 0 to 100, or a JSON object with at least ``percent`` (0-100) and, by custom, ``stage``."""


class JobState(StrEnum):
    """Where a job stands, in BullMQ's terms."""

    WAITING = "waiting"
    """Ready; FIFO among its equals."""
    PRIORITIZED = "prioritized"
    """Ready, with a priority above 0."""
    DELAYED = "delayed"
    """Ready at a later time: a delay or a retry's back-off."""
    WAITING_CHILDREN = "waiting-children"
    """A flow's parent whose children have not all ended."""
    ACTIVE = "active"
    """Leased by a worker."""
    COMPLETED = "completed"
    FAILED = "failed"


class Reporter(Protocol):
    """Where a running job's news go; the worker's writes to Redis, a test's keeps them."""

    async def progress(self, value: Progress) -> None:
        """Record the progress.

        Raises:
            LeaseLost: The job is no longer this worker's.
        """
        ...

    async def log(self, lines: list[str]) -> None:
        """Append lines to the job's log, in one round trip."""
        ...

    async def children_results(self) -> dict[str, Any]:
        """Results of the flow's completed children, by ``queue-key:id``; decoded JSON."""
        ...

    async def children_failures(self) -> dict[str, str]:
        """Failure reasons of the flow's failed children that were ignored, by ``queue-key:id``."""
        ...


@dataclass(eq=False, kw_only=True, slots=True)
class Job(Generic[P]):
    """One job, in the hands of its handler. Not to be changed: freezing it would cost each job 2 µs."""

    #: As stored: a decimal string, or the producer's own id.
    id: str
    #: The job type's name, which is the queue's name too.
    job_type: str
    #: The payload, checked against the job type's model.
    data: P
    #: Which attempt this is, from 1; a crash of the worker does not count.
    attempt: int = 1
    #: How many attempts it gets in all.
    max_attempts: int = 1
    #: How many workers died or lost their lease while they held it.
    crashes: int = 0
    #: How often it has been started, this time included; counted anew when somebody runs an ended job again.
    starts: int = 1
    #: The progress that it had when it was started.
    reported: Progress | None = None
    #: 0 is the most urgent.
    priority: int = 0
    #: When it was added (aware, UTC).
    created_at: datetime | None = None
    #: Whose job it is: the payload's ``userId``, when it has one.
    user_id: str | None = None
    #: W3C trace context, when the producer sent one (BullMQ's telemetry field).
    trace_context: str | None = None
    _reporter: Reporter = field(repr=False)

    async def progress(self, value: Progress) -> None:
        """Say how far the job is.

        Args:
            value: 0 to 100, or an object with ``percent`` and ``stage``.

        Raises:
            LeaseLost: The job is no longer this worker's.
        """
        await self._reporter.progress(value)

    async def log(self, *lines: str) -> None:
        """Append lines to the job's log; several cost one round trip."""
        await self._reporter.log(list(lines))

    def in_thread(self, loop: asyncio.AbstractEventLoop) -> ThreadJob[P]:
        """The same job for a plain function that runs in a thread: its methods block."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return ThreadJob(**values, _loop=loop)

    async def children_results(self) -> dict[str, Any]:
        """Results of the flow's completed children, by ``prefix:queue:id``."""
        return await self._reporter.children_results()

    async def children_failures(self) -> dict[str, str]:
        """Why ignored children failed, by ``prefix:queue:id``."""
        return await self._reporter.children_failures()


@dataclass(eq=False, kw_only=True, slots=True)
class ThreadJob(Job[P]):
    """A job in the hands of a plain function: ``progress_now`` and its like may be called from its thread.

    A plain function that is annotated ``job: Job[P]`` gets one of these too.
    """

    _loop: asyncio.AbstractEventLoop = field(repr=False)

    def progress_now(self, value: Progress) -> None:
        """As ``progress``, from a thread."""
        self._wait(self._reporter.progress(value))

    def log_now(self, *lines: str) -> None:
        """As ``log``, from a thread."""
        self._wait(self._reporter.log(list(lines)))

    def children_results_now(self) -> dict[str, Any]:
        """As ``children_results``, from a thread."""
        return self._wait(self._reporter.children_results())

    def children_failures_now(self) -> dict[str, str]:
        """As ``children_failures``, from a thread."""
        return self._wait(self._reporter.children_failures())

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
