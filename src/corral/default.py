"""The default Corral, and its methods as functions, for programs that need only one.

It is made when it is first used, from the environment and ``.env``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from corral import pipeline
from corral.client import Corral
from corral.queue.status import Cancellation, JobStatus, QueuedJob, QueueStats

if TYPE_CHECKING:
    from corral.queue.workers import Workers
    from corral.wire.connection import RedisClient

_made: tuple[int, Corral] | None = None


def default_corral() -> Corral:
    """The Corral that the module functions use. A forked process gets its own."""
    global _made  # noqa: PLW0603 - the one piece of module state that this module is for
    if _made is None or _made[0] != os.getpid():
        corral = Corral()
        pipeline.register(corral)
        _made = (os.getpid(), corral)
    return _made[1]


async def add_job(job_type: str, data: Any, **options: Any) -> QueuedJob[Any]:
    """Add a job; see ``Corral.add_job`` for the options and errors."""
    return await default_corral().add_job(job_type, data, **options)


async def add_jobs(job_type: str, items: Sequence[Any], **options: Any) -> list[QueuedJob[Any]]:
    """Add many jobs at once; see ``Corral.add_jobs``."""
    return await default_corral().add_jobs(job_type, items, **options)


async def get_job_status(job_type: str, job_id: str) -> JobStatus:
    """State, progress, result, error, attempts and times of a job.

    Raises:
        JobNotFound: There is none of this id.
    """
    return await default_corral().get_job_status(job_type, job_id)


async def wait_for_result(job: QueuedJob[Any] | tuple[str, str], *, timeout: timedelta | None = None) -> Any:
    """A job's result, as soon as it is there; see ``Corral.wait_for_result``."""
    return await default_corral().wait_for_result(job, timeout=timeout)


async def cancel_job(job_type: str, job_id: str, *, reason: str = "", by: str | None = None) -> Cancellation:
    """Remove a job that has not started, or stop an active one; see ``Corral.cancel_job``."""
    return await default_corral().cancel_job(job_type, job_id, reason=reason, by=by)


async def get_queue_stats(job_type: str) -> QueueStats:
    """How many jobs a queue holds, by state."""
    return await default_corral().get_queue_stats(job_type)


async def pause_queue(job_type: str) -> None:
    """Let no worker start a job of this queue."""
    await default_corral().pause_queue(job_type)


async def resume_queue(job_type: str) -> None:
    """Undo ``pause_queue``."""
    await default_corral().resume_queue(job_type)


async def clean_queue(job_type: str, grace_ms: int | timedelta) -> list[str]:
    """Remove jobs that ended longer ago than ``grace_ms`` milliseconds, or a ``timedelta``; returns their ids."""
    return await default_corral().clean_queue(job_type, grace_ms)


async def initialize_workers(job_types: Iterable[str] | None = None, *, concurrency: int | None = None) -> Workers:
    """Start workers in this event loop: for the four job types and what else is declared, or for those named."""
    corral = default_corral()
    names = [name for name, spec in corral.job_types.items() if spec.handler is not None]
    return await corral.start_workers(names if job_types is None else job_types, concurrency=concurrency)


async def shutdown_queues(timeout: timedelta | None = None) -> None:
    """Stop the workers: active jobs may end within ``timeout`` (default ``shutdown_timeout``), others go back."""
    if _made is not None:
        await default_corral().stop_workers(timeout)


async def disconnect_redis() -> None:
    """Close the connections; the next call opens them again."""
    if _made is not None:
        await default_corral().disconnect()


class _Redis:
    """The default Corral's client; connects with its first command."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        async def command(*args: Any, **kwargs: Any) -> Any:
            corral = default_corral()
            await corral.connect()
            return await getattr(corral.redis, name)(*args, **kwargs)

        return command


redis: RedisClient = cast("RedisClient", _Redis())
"""A ready async client: ``await redis.set("key", "value", ex=3600)``, ``get``, ``incr``, ``expire``, …"""
