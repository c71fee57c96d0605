"""Where somebody may look on: traces and metrics, without the queue knowing of either."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

from corral.queue.job import Job


class Observation(Protocol):
    """One attempt, while it runs; the worker fills in what came of it."""

    #: The handler's result; stays None when it raised.
    result: Any
    #: Why the handler was told to stop: ``cancelled``, ``timed_out``, ``lease_lost`` or ``shutdown``.
    interruption: str | None


class JobObserver(Protocol):
    """Looks on while jobs are added and run. What it raises would be the job's failure, so it must not raise."""

    def running(self, job: Job[Any]) -> AbstractContextManager[Observation]:
        """Surround one attempt; its exception passes through."""
        ...

    def trace_context(self) -> str | None:
        """What a job that is added now carries in BullMQ's telemetry field; None: nothing."""
        ...
