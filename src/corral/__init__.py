"""Corral: the background-job backend of AI coding platforms, on Redis in BullMQ's own format.

Everything public is here; names are loaded when they are first used, so that importing Corral is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corral.client import Corral
    from corral.default import (
        add_job,
        add_jobs,
        cancel_job,
        clean_queue,
        default_corral,
        disconnect_redis,
        get_job_status,
        get_queue_stats,
        initialize_workers,
        pause_queue,
        redis,
        resume_queue,
        shutdown_queues,
        wait_for_result,
    )
    from corral.errors import (
        AdapterError,
        ConfigurationError,
        CorralError,
        JobCancelled,
        JobFailed,
        JobNotFound,
        JobStateConflict,
        LeaseLost,
        PayloadInvalid,
        ProcessDied,
        RateLimited,
        ResultTimedOut,
        StoreError,
        StoreUnavailable,
        TooManyJobs,
        UnknownJobType,
        UnknownProject,
        Unrecoverable,
    )
    from corral.jobs.code_generation.payload import Budget, CodeGeneration, EditFormat
    from corral.jobs.code_generation.result import CodeGenerationResult
    from corral.jobs.codebase_indexing.payload import CodebaseIndexing, IndexingResult
    from corral.jobs.job_type import JobType
    from corral.jobs.pr_creation.payload import PrCreation, PrResult
    from corral.jobs.test_execution.payload import TestExecution
    from corral.jobs.test_execution.report import TestReport
    from corral.queue.definition import Isolation, JobTypeSpec, PerUser, RateLimit
    from corral.queue.events import QueueEvent
    from corral.queue.flow import Flow, FlowJob
    from corral.queue.job import Job, JobState, ThreadJob
    from corral.queue.options import Backoff, ChildFailure, Deduplication, JobPriority, Retention
    from corral.queue.sharing import UserShare
    from corral.queue.status import (
        Cancellation,
        JobLogs,
        JobStatus,
        QueuedJob,
        QueueMetrics,
        QueueStats,
        Schedule,
        WorkerInfo,
    )
    from corral.queue.workers import Workers
    from corral.settings import Settings

_HOMES = {
    "corral.client": ("Corral",),
    "corral.default": (
        "add_job", "add_jobs", "cancel_job", "clean_queue", "default_corral", "disconnect_redis", "get_job_status",
        "get_queue_stats", "initialize_workers", "pause_queue", "redis", "resume_queue", "shutdown_queues",
        "wait_for_result",
    ),
    "corral.errors": (
        "AdapterError", "ConfigurationError", "CorralError", "JobCancelled", "JobFailed", "JobNotFound",
        "JobStateConflict", "LeaseLost", "PayloadInvalid", "ProcessDied", "RateLimited", "ResultTimedOut", "StoreError",
        "StoreUnavailable", "TooManyJobs", "UnknownJobType", "UnknownProject", "Unrecoverable",
    ),
    "corral.jobs.code_generation.result": ("CodeGenerationResult",),
    "corral.jobs.code_generation.payload": ("Budget", "CodeGeneration", "EditFormat"),
    "corral.jobs.codebase_indexing.payload": ("CodebaseIndexing", "IndexingResult"),
    "corral.jobs.job_type": ("JobType",),
    "corral.jobs.pr_creation.payload": ("PrCreation", "PrResult"),
    "corral.jobs.test_execution.payload": ("TestExecution",),
    "corral.jobs.test_execution.report": ("TestReport",),
    "corral.queue.definition": ("Isolation", "JobTypeSpec", "PerUser", "RateLimit"),
    "corral.queue.events": ("QueueEvent",),
    "corral.queue.flow": ("Flow", "FlowJob"),
    "corral.queue.job": ("Job", "JobState", "ThreadJob"),
    "corral.queue.options": ("Backoff", "ChildFailure", "Deduplication", "JobPriority", "Retention"),
    "corral.queue.status": (
        "Cancellation", "JobLogs", "JobStatus", "QueueMetrics", "QueueStats", "QueuedJob", "Schedule", "WorkerInfo",
    ),
    "corral.queue.sharing": ("UserShare",),
    "corral.queue.workers": ("Workers",),
    "corral.settings": ("Settings",),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdapterError",
    "Backoff",
    "Budget",
    "Cancellation",
    "ChildFailure",
    "CodeGeneration",
    "CodeGenerationResult",
    "CodebaseIndexing",
    "ConfigurationError",
    "Corral",
    "CorralError",
    "Deduplication",
    "EditFormat",
    "Flow",
    "FlowJob",
    "IndexingResult",
    "Isolation",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobLogs",
    "JobNotFound",
    "JobPriority",
    "JobState",
    "JobStateConflict",
    "JobStatus",
    "JobType",
    "JobTypeSpec",
    "LeaseLost",
    "PayloadInvalid",
    "PerUser",
    "PrCreation",
    "PrResult",
    "ProcessDied",
    "QueueEvent",
    "QueueMetrics",
    "QueueStats",
    "QueuedJob",
    "RateLimit",
    "RateLimited",
    "ResultTimedOut",
    "Retention",
    "Schedule",
    "Settings",
    "StoreError",
    "StoreUnavailable",
    "TestExecution",
    "TestReport",
    "ThreadJob",
    "TooManyJobs",
    "UnknownJobType",
    "UnknownProject",
    "Unrecoverable",
    "UserShare",
    "WorkerInfo",
    "Workers",
    "add_job",
    "add_jobs",
    "cancel_job",
    "clean_queue",
    "default_corral",
    "disconnect_redis",
    "get_job_status",
    "get_queue_stats",
    "initialize_workers",
    "pause_queue",
    "redis",
    "resume_queue",
    "shutdown_queues",
    "wait_for_result",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'corral' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
