"""From what Corral answers to what HTTP answers."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from corral.interfaces.http import models

if TYPE_CHECKING:
    from corral.queue.definition import JobTypeSpec
    from corral.queue.status import JobStatus, QueueStats, Schedule, WorkerInfo


def project_of(data: Any) -> str | None:
    """The project that a payload is about."""
    if isinstance(data, BaseModel):
        found = getattr(data, "project_id", None)
    elif isinstance(data, dict):
        found = data.get("projectId", data.get("project_id"))
    else:
        found = None
    return found if isinstance(found, str) else None


def job_view(status: JobStatus) -> models.JobView:
    """One job, whole."""
    return models.JobView.model_validate(status)


def job_summary(status: JobStatus) -> models.JobSummary:
    """One job, as a line of a list."""
    return models.JobSummary(
        id=status.id,
        job_type=status.job_type,
        state=status.state,
        progress=status.progress,
        error=status.error,
        attempts=status.attempts,
        max_attempts=status.max_attempts,
        priority=status.priority,
        user_id=status.user_id,
        project_id=project_of(status.data),
        created_at=status.created_at,
        started_at=status.started_at,
        finished_at=status.finished_at,
    )


def queue_view(stats: QueueStats) -> models.QueueView:
    """One queue at a glance."""
    return models.QueueView.model_validate(stats)


def worker_view(worker: WorkerInfo) -> models.WorkerView:
    """One worker."""
    return models.WorkerView.model_validate(worker)


def schedule_view(schedule: Schedule) -> models.ScheduleView:
    """One schedule."""
    return models.ScheduleView.model_validate(schedule)


def job_type_view(spec: JobTypeSpec) -> models.JobTypeView:
    """A job type with its schemas."""
    return models.JobTypeView(
        name=spec.name,
        description=spec.description,
        payload_schema=_schema(spec.payload),
        result_schema=_schema(spec.result),
    )


def _schema(model: Any) -> dict[str, Any] | None:
    return _model_schema(model) if isinstance(model, type) and issubclass(model, BaseModel) else None


@cache
def _model_schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema(by_alias=True)  # takes milliseconds, and never changes
