"""Corral for synchronous code: Django, Flask, scripts, a REPL.

::

    from corral import sync

    job = sync.add_job(JobType.TEST_EXECUTION, {"taskId": "7", ...})
    report = sync.wait_for_result(job, timeout=timedelta(minutes=5))

    corral = sync.SyncCorral("redis://localhost")      # or SyncCorral(corral) for the job types of a Corral of yours
    corral.declare("resize", payload=Resize)
    corral.add_job("resize", {"width": 100})

There is no second implementation: each function runs Corral's own coroutine in one event loop, in a thread of its own,
that all of a process share, and waits for it. Any number of threads may call. It works after a fork (gunicorn, Celery):
the child gets a thread and connections of its own. In a coroutine use :class:`corral.Corral` itself; what is here would
block the event loop, and is refused.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import MethodType, TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from corral.client import Corral
from corral.errors import ConfigurationError
from corral.queue.definition import JobTypeSpec
from corral.queue.events import QueueEvent
from corral.queue.status import QueuedJob
from corral.settings import Settings

P = ParamSpec("P")
R = TypeVar("R")

_CLOSE_S = 5.0
_lock = threading.Lock()


class _Portal:
    """One event loop in a thread, and everybody's way into it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def call(self, coroutine: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine in the loop, and wait for it; an interruption of the wait (Ctrl-C) cancels it."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            coroutine.close()
            raise ConfigurationError(
                "corral.sync would block this event loop: in a coroutine, await the same method of corral.Corral"
            )
        future: Future[R] = asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())
        try:
            return future.result()
        finally:
            future.cancel()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with _lock:
            if self._loop is None or self._thread is None or not self._thread.is_alive():
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="corral-sync", daemon=True)
                self._thread.start()
            return self._loop

    def close(self) -> None:
        """Close every client, then end the loop and the thread."""
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return
        for corral in list(_open):
            with suppress(Exception):
                corral.close()
        with suppress(Exception):
            asyncio.run_coroutine_threadsafe(_cancel_others(), self._loop).result(_CLOSE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)
        if not self._thread.is_alive():
            self._loop.close()
        self._loop = self._thread = None


async def _cancel_others() -> None:
    """End what still runs in this loop, as ``asyncio.run`` would."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


_portal = _Portal()
#: Clients that are connected in this process.
_open: set[SyncCorral] = set()
#: What belongs to a parent process. Kept, as to collect it would be to close it.
_forgotten: list[object] = []


@atexit.register
def _at_exit() -> None:
    _portal.close()


def _after_fork() -> None:
    # Threads don't cross a fork, and the parent's sockets are the parent's: both are forgotten, not closed.
    global _portal, _lock
    _forgotten.append(_portal)
    _portal, _lock = _Portal(), threading.Lock()
    for corral in _open:
        corral.forget()
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _Blocking(Generic[P, R]):
    """A method of ``Corral`` as a blocking method of ``SyncCorral``, with its own signature."""

    def __init__(self, method: Callable[Concatenate[Corral, P], Coroutine[Any, Any, R]]) -> None:
        @functools.wraps(method)
        def blocking(self: SyncCorral, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return _portal.call(method(self._connectable(), *args, **kwargs))

        self._function = blocking
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[Concatenate[SyncCorral, P], R]: ...
    @overload
    def __get__(self, instance: SyncCorral, owner: type) -> Callable[P, R]: ...
    def __get__(self, instance: SyncCorral | None, owner: type) -> Callable[..., R]:
        return self._function if instance is None else MethodType(self._function, instance)


class SyncCorral:
    """What producers and managers need of :class:`corral.Corral`, without ``await``.

    Args:
        redis_url: Where Redis is; default ``REDIS_URL``, else the embedded server. Or a ``Corral``, whose settings and
            job types, present and future, are used; its connections are left alone, so it may live in an event loop.
        prefix: BullMQ's key prefix.
        settings: Default: from the environment and ``.env``.
    """

    def __init__(
        self, redis_url: str | Corral | None = None, *, prefix: str | None = None, settings: Settings | None = None
    ) -> None:
        self._template = (
            redis_url if isinstance(redis_url, Corral) else Corral(redis_url, prefix=prefix, settings=settings)
        )
        self._own: Corral | None = None

    def __repr__(self) -> str:
        return f"<Sync{self._template!r}"[:-1] + ">"

    @property
    def corral(self) -> Corral:
        """Where job types are declared, ``@corral.handler`` included."""
        return self._template

    def _connectable(self) -> Corral:
        """This process's own client; made anew after a fork."""
        with _lock:
            if self._own is None:
                self._own = self._template.twin()
                _open.add(self)
            return self._own

    def forget(self) -> None:
        """Leave the connections to the parent process. Happens by itself in a forked child."""
        _forgotten.append(self._own)
        self._own = None

    def declare(
        self, name: str, *, payload: Any = None, result: Any = None, aliases: Iterable[str] = (), description: str = ""
    ) -> JobTypeSpec:
        """Declare a job type whose workers live elsewhere (``corral.declare`` takes further defaults).

        Raises:
            ConfigurationError: The name is taken.
        """
        return self._template.declare(name, payload=payload, result=result, aliases=aliases, description=description)

    def close(self) -> None:
        """Disconnect; the next call connects again. Happens by itself when the process ends."""
        with _lock:
            own, self._own = self._own, None
            _open.discard(self)
        if own is not None:
            _portal.call(own.close())

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def add_jobs(self, job_type: str, items: Sequence[Any], **options: Any) -> list[QueuedJob[Any]]:
        """As ``Corral.add_jobs``: many jobs at once, all or none of each 5,000."""
        return _portal.call(self._connectable().add_jobs(job_type, items, **options))

    def events(self, job_type: str, *, after: str | None = None) -> Generator[QueueEvent, None, None]:
        """What happens in a queue, from now on or from a known event on; close the iterator to stop."""
        found = self._connectable().events(job_type, after=after)
        try:
            while (event := _portal.call(_next(found))) is not None:
                yield event
        finally:
            _portal.call(_end(found))

    connect = _Blocking(Corral.connect)
    add_job = _Blocking(Corral.add_job)
    add_flow = _Blocking(Corral.add_flow)
    get_job_status = _Blocking(Corral.get_job_status)
    list_jobs = _Blocking(Corral.list_jobs)
    get_job_logs = _Blocking(Corral.get_job_logs)
    wait_for_result = _Blocking(Corral.wait_for_result)
    get_artifact = _Blocking(Corral.get_artifact)
    get_queue_stats = _Blocking(Corral.get_queue_stats)
    get_queue_users = _Blocking(Corral.get_queue_users)
    get_metrics = _Blocking(Corral.get_metrics)
    list_workers = _Blocking(Corral.list_workers)
    cancel_job = _Blocking(Corral.cancel_job)
    retry_job = _Blocking(Corral.retry_job)
    promote_job = _Blocking(Corral.promote_job)
    remove_job = _Blocking(Corral.remove_job)
    pause_queue = _Blocking(Corral.pause_queue)
    resume_queue = _Blocking(Corral.resume_queue)
    clean_queue = _Blocking(Corral.clean_queue)
    drain_queue = _Blocking(Corral.drain_queue)
    obliterate_queue = _Blocking(Corral.obliterate_queue)
    retry_jobs = _Blocking(Corral.retry_jobs)
    promote_jobs = _Blocking(Corral.promote_jobs)
    set_rate_limit = _Blocking(Corral.set_rate_limit)
    set_global_concurrency = _Blocking(Corral.set_global_concurrency)
    add_schedule = _Blocking(Corral.add_schedule)
    list_schedules = _Blocking(Corral.list_schedules)
    remove_schedule = _Blocking(Corral.remove_schedule)


async def _next(events: AsyncIterator[QueueEvent]) -> QueueEvent | None:
    return await anext(events, None)


async def _end(events: AsyncIterator[QueueEvent]) -> None:
    if isinstance(events, AsyncGenerator):
        await events.aclose()


@functools.cache
def default() -> SyncCorral:
    """The instance that the functions below use: the four job types, and settings from the environment."""
    return SyncCorral(Corral())


def _on_default(method: Callable[Concatenate[SyncCorral, P], R]) -> Callable[P, R]:
    @functools.wraps(method)
    def function(*args: P.args, **kwargs: P.kwargs) -> R:
        return method(default(), *args, **kwargs)

    return function


add_job = _on_default(SyncCorral.add_job)
add_flow = _on_default(SyncCorral.add_flow)
get_job_status = _on_default(SyncCorral.get_job_status)
list_jobs = _on_default(SyncCorral.list_jobs)
get_job_logs = _on_default(SyncCorral.get_job_logs)
wait_for_result = _on_default(SyncCorral.wait_for_result)
get_artifact = _on_default(SyncCorral.get_artifact)
get_queue_stats = _on_default(SyncCorral.get_queue_stats)
get_queue_users = _on_default(SyncCorral.get_queue_users)
get_metrics = _on_default(SyncCorral.get_metrics)
list_workers = _on_default(SyncCorral.list_workers)
cancel_job = _on_default(SyncCorral.cancel_job)
retry_job = _on_default(SyncCorral.retry_job)
promote_job = _on_default(SyncCorral.promote_job)
remove_job = _on_default(SyncCorral.remove_job)
pause_queue = _on_default(SyncCorral.pause_queue)
resume_queue = _on_default(SyncCorral.resume_queue)
clean_queue = _on_default(SyncCorral.clean_queue)
drain_queue = _on_default(SyncCorral.drain_queue)
obliterate_queue = _on_default(SyncCorral.obliterate_queue)
retry_jobs = _on_default(SyncCorral.retry_jobs)
promote_jobs = _on_default(SyncCorral.promote_jobs)
set_rate_limit = _on_default(SyncCorral.set_rate_limit)
set_global_concurrency = _on_default(SyncCorral.set_global_concurrency)
add_schedule = _on_default(SyncCorral.add_schedule)
list_schedules = _on_default(SyncCorral.list_schedules)
remove_schedule = _on_default(SyncCorral.remove_schedule)


def add_jobs(job_type: str, items: Sequence[Any], **options: Any) -> list[QueuedJob[Any]]:
    """As ``Corral.add_jobs``: many jobs at once, all or none of each 5,000."""
    return default().add_jobs(job_type, items, **options)


def events(job_type: str, *, after: str | None = None) -> Generator[QueueEvent, None, None]:
    """What happens in a queue, from now on or from a known event on; close the iterator to stop."""
    return default().events(job_type, after=after)


def disconnect_redis() -> None:
    """Close the default instance's connections; the next call connects again."""
    default().close()
