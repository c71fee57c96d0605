"""What anyone who asks is told: of a job, of a queue, of its workers and its past minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from corral.errors import PayloadInvalid
from corral.queue.definition import JobTypeSpec
from corral.queue.job import JobState
from corral.wire.codec import JobRecord, decode_json, instant

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class QueuedJob(Generic[R]):
    """A job that was added; what ``wait_for_result`` takes. ``R`` is its result's type."""

    id: str
    job_type: str


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """One job, as it is stored now."""

    id: str
    job_type: str
    state: JobState
    #: 0 to 100.
    progress: float
    #: What the handler reported, when that was more than a number.
    progress_detail: Mapping[str, Any] | None
    #: The result, as the job type's model; None until it is completed.
    result: Any
    #: Why it failed, or why its last attempt did.
    error: str | None
    #: One text per failed attempt, oldest first.
    stacktrace: tuple[str, ...]
    #: Attempts that have ended.
    attempts: int
    max_attempts: int
    #: Workers that died or lost their lease with it.
    crashes: int
    #: 0 is the most urgent.
    priority: int
    #: The delay that it was last put back or added with, in ms.
    delay_ms: int
    #: The payload as JSON: camelCase, not checked.
    data: Any
    #: The payload's ``userId``.
    user_id: str | None
    #: The worker that claimed it last.
    worker: str | None
    #: ``prefix:queue:id`` of a flow's parent.
    parent: str | None
    #: The schedule that made it.
    schedule_id: str | None
    #: W3C trace context, as its producer sent it.
    trace_context: str | None
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None

    @property
    def cancelled(self) -> bool:
        """Whether it ended because somebody cancelled it."""
        return self.state is JobState.FAILED and (self.error or "").startswith(CANCELLED_PREFIX)


#: How the recorded reason of a cancelled job begins, so that every reader of the format can tell.
CANCELLED_PREFIX = "cancelled"


def job_status(spec: JobTypeSpec, record: JobRecord, state: JobState) -> JobStatus:
    """Read a job's hash. What doesn't fit is shown as it is, never raised: an operator has to see it."""
    detail = decode_json(record.raw.get("progress"), default=0)
    data = decode_json(record.data, default=record.data)
    result: Any = None
    if state is JobState.COMPLETED:
        try:
            result = spec.decode_result(record.raw.get("returnvalue"))
        except PayloadInvalid:
            result = decode_json(record.raw.get("returnvalue"))
    return JobStatus(
        id=record.id,
        job_type=spec.name,
        state=state,
        progress=100.0 if state is JobState.COMPLETED else percent(detail),
        progress_detail=detail if isinstance(detail, dict) else None,
        result=result,
        error=record.raw.get("failedReason") or record.deferred_failure,
        stacktrace=tuple(record.stacktrace),
        attempts=record.attempts_made,
        max_attempts=record.max_attempts,
        crashes=record.crashes,
        # In a queue whose users take turns, a delayed job may have another one until it is due.
        priority=record.number("corral:priority" if "corral:priority" in record.raw else "priority"),
        delay_ms=record.number("delay"),
        data=data,
        user_id=user_of(data),
        worker=record.raw.get("pb"),
        parent=record.raw.get("parentKey"),
        schedule_id=record.scheduler_id,
        trace_context=record.options.get("telemetryMetadata"),
        created_at=instant(record.raw.get("timestamp")),
        started_at=instant(record.raw.get("processedOn")),
        finished_at=instant(record.raw.get("finishedOn")),
    )


def percent(progress: Any) -> float:
    """The number in a progress report, from 0 to 100."""
    if isinstance(progress, Mapping):
        progress = progress.get("percent", 0)
    if isinstance(progress, bool) or not isinstance(progress, int | float) or progress != progress:  # noqa: PLR0124 - NaN
        return 0.0
    return float(min(100, max(0, progress)))


def user_of(data: Any) -> str | None:
    """Whose job a payload says it is."""
    if type(data) is not dict:
        if isinstance(data, BaseModel) and _has_no_user(type(data)):
            return None
        if not isinstance(data, Mapping):
            value = getattr(data, "user_id", None)
            return value if isinstance(value, str) else None
    value = data.get("userId", data.get("user_id"))
    return value if isinstance(value, str) else None


@cache
def _has_no_user(kind: type[BaseModel]) -> bool:
    """Whether a model has no ``user_id``: asked once, as an instance takes long to say so."""
    if kind.model_config.get("extra") == "allow":
        return False
    return "user_id" not in kind.model_fields and not hasattr(kind, "user_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueStats:
    """How many jobs a queue holds, by state."""

    job_type: str
    #: Ready to run, prioritized ones included.
    waiting: int
    active: int
    completed: int
    failed: int
    delayed: int
    #: Of the waiting ones, those with a priority above 0.
    prioritized: int
    waiting_children: int
    paused: bool
    #: The most jobs at once over all workers; None when there is no such bound.
    global_concurrency: int | None

    @property
    def total(self) -> int:
        """All jobs of the queue."""
        return self.waiting + self.active + self.completed + self.failed + self.delayed + self.waiting_children


@dataclass(frozen=True, slots=True)
class JobLogs:
    """A part of a job's log."""

    lines: tuple[str, ...]
    #: How many lines there are in all.
    total: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerInfo:
    """A worker that is connected now, in whatever language."""

    name: str
    job_type: str
    address: str
    age_s: int
    idle_s: int
    #: The jobs that it claimed and has not ended.
    active: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueMetrics:
    """Ended jobs per minute, in BullMQ's own counters."""

    #: All that were counted.
    count: int
    #: Newest first, one per minute.
    points: tuple[int, ...]


class Cancellation(StrEnum):
    """What a request to cancel did."""

    REMOVED = "removed"
    """The job had not started, and is gone."""
    STOPPING = "stopping"
    """The job is active; its worker has been told, and ends it as failed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A job scheduler: makes a job at each due time."""

    id: str
    job_type: str
    #: Cron, five fields, or six with seconds first.
    cron: str | None
    time_zone: str | None
    every_ms: int | None
    next_run_at: datetime | None
    #: How many jobs it has made.
    count: int
    limit: int | None
    data: Any
