"""``Corral``: the object behind the public face. Declares job types, adds jobs, asks about them, starts workers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, cast

from corral.errors import ConfigurationError, UnknownJobType
from corral.jobs.registry import Parts, builtin_job_types
from corral.queue import scheduler
from corral.queue.definition import Handler, Isolation, JobTypeSpec, PerUser, RateLimit, from_handler
from corral.queue.events import EventReader, QueueEvent, ResultWaiter
from corral.queue.flow import Flow, FlowJob, add_flow
from corral.queue.job import JobState
from corral.queue.observer import JobObserver
from corral.queue.options import Backoff, BackoffStrategy, Deduplication, JobOptions, Retention
from corral.queue.queue import Queue, options_from
from corral.queue.sharing import UserShare, users_of
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
from corral.queue.usher import Usher
from corral.wire.address import StoreAddress, StoreMode, parse_redis_url
from corral.wire.pipe import Connector, Outage, Pipe
from corral.wire.pipe_client import PipeClient
from corral.wire.scripts import load_commands

if TYPE_CHECKING:
    from corral.adapters.llm.response_cache import ResponseCache
    from corral.jobs.test_execution.artifacts import FoundArtifact
    from corral.queue.workers import Workers
    from corral.settings import Settings
    from corral.wire.connection import RedisClient

H = TypeVar("H", bound=Handler)


class Corral:
    """Background jobs on Redis, in BullMQ's format.

    Args:
        redis_url: Where Redis is; default ``REDIS_URL``, else the embedded server.
        prefix: BullMQ's key prefix; default ``CORRAL_PREFIX``, else ``bull``.
        settings: Default: from the environment and ``.env``.
        job_types: Declared from the beginning; default: the four of :class:`corral.JobType`.

    An async context manager: connected inside. It belongs to one event loop.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        prefix: str | None = None,
        settings: Settings | None = None,
        job_types: Iterable[JobTypeSpec] | None = None,
    ) -> None:
        self.settings = settings or _settings_of_the_environment()
        self.prefix = prefix or self.settings.prefix
        configured = self.settings.redis_url
        self._url = redis_url or (configured.get_secret_value() if configured is not None else None)
        if self._url is not None:
            parse_redis_url(self._url)  # a wrong address is told now, not at the first job
        self._types: dict[str, JobTypeSpec] = {}
        self._queues: dict[str, Queue] = {}
        self._waiters: dict[str, ResultWaiter] = {}
        self._workers: list[Workers] = []
        self._ushers: list[Usher] = []
        self._outage = Outage()
        self._pipe: Pipe | None = None
        self._connector: Connector | None = None
        self._redis: RedisClient | None = None
        self._quick: PipeClient | None = None
        self._connecting = asyncio.Lock()
        self._checked = False
        #: Looks on while jobs are added and run (traces, metrics); set it before workers are started.
        self.observer: JobObserver | None = None
        #: What the handlers of the four job types share: projects, workspaces, search, …
        self.parts = Parts(
            self.settings, lambda: self.redis, namespace=self.namespace, quick=lambda: self._quick or self.redis
        )
        builtin = builtin_job_types(self.parts, default_options(self.settings)) if job_types is None else ()
        self._builtin = frozenset(spec.name for spec in builtin)
        for spec in (*builtin, *(job_types or ())):
            self._declare(spec)

    def __repr__(self) -> str:
        where = str(parse_redis_url(self._url)) if self._url is not None else "embedded"
        return f"<Corral {where} prefix={self.prefix!r} {len(self._types)} job types>"

    @property
    def namespace(self) -> str:
        """Start of the keys beside BullMQ's own (projects, tokens, …): two prefixes on one Redis share nothing.

        BullMQ's prefix is a part of it, so that on a Cluster its hash tag keeps them with the queues.
        """
        return f"corral:{self.prefix}"

    def twin(self) -> Corral:
        """Another one with the same settings and job types, present and future, but connections of its own.

        For a second event loop or a forked process; a ``Corral`` belongs to one.
        """
        other = Corral(self._url, prefix=self.prefix, settings=self.settings, job_types=())
        other._types = self._types
        return other

    # --- life

    async def connect(self) -> None:
        """Connect, starting the embedded server when there is no address. Every method does this when need be.

        Raises:
            StoreUnavailable: Redis can't be reached.
            StoreAuthenticationFailed: The user or password was refused.
            ConfigurationError: The address is wrong, or the embedded server can't be started.
        """
        async with self._connecting:
            if self._pipe is not None:
                return
            # redis-py takes longer to import than all the rest: not before it is needed.
            from corral.wire.connection import open_client  # noqa: PLC0415
            from corral.wire.connector import connector  # noqa: PLC0415

            address = await self._address()
            self._connector = connector(address, self.prefix)
            pipe = Pipe(self._connector, name="corral", on_connect=load_commands(), outage=self._outage)
            await pipe.open()
            self._redis = open_client(address)
            if address.mode is not StoreMode.CLUSTER:  # where each key may be on another node
                self._quick = PipeClient(self._connector, name="corral-cache", outage=self._outage)
            self._pipe = pipe

    async def _address(self) -> StoreAddress:
        if self._url is None:
            from corral.wire.embedded import ensure_embedded  # noqa: PLC0415 - only where there is no address

            return parse_redis_url(await ensure_embedded(self.settings.data_dir))
        return parse_redis_url(self._url)

    async def close(self) -> None:
        """Stop the workers that were started here, and disconnect."""
        await self.stop_workers()
        await self.disconnect()

    async def stop_workers(self, timeout: timedelta | None = None) -> None:
        """Stop all workers that were started here (see ``Workers.stop``)."""
        workers, self._workers = self._workers, []
        ushers, self._ushers = self._ushers, []
        await asyncio.gather(*(group.stop(timeout) for group in workers), *(usher.stop() for usher in ushers))

    async def disconnect(self) -> None:
        """Close the connections."""
        await self.parts.aclose()
        await asyncio.gather(*(waiter.close() for waiter in self._waiters.values()))
        self._waiters.clear()
        self._queues.clear()
        pipe, self._pipe = self._pipe, None
        redis, self._redis = self._redis, None
        quick, self._quick = self._quick, None
        if quick is not None:
            await quick.close()
        if pipe is not None:
            await pipe.close()
        if redis is not None:
            await redis.aclose()

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def redis(self) -> RedisClient:
        """A ready client of the same Redis, which decodes to ``str``; connect first.

        Raises:
            ConfigurationError: Not connected.
        """
        if self._redis is None:
            raise ConfigurationError("Not connected: use `async with Corral(...)`, or await `connect()` first.")
        return self._redis

    @property
    def response_cache(self) -> ResponseCache:
        """The cache of models' answers, shared with the jobs of all workers; connect first.

        Its hits go over a connection of its own and cost less than a ``GET`` through ``redis`` (not on a Cluster, where
        they go through it). Disconnecting closes it.

        Raises:
            ConfigurationError: Not connected.
        """
        return self.parts.response_cache

    async def execute_command(self, *parts: str | bytes | float) -> Any:
        """Send one Redis command on the connection that jobs are added on: quicker than ``redis``, and never blocking.

        Raises:
            StoreUnavailable: Redis can't be reached.
        """
        if self._pipe is None:
            await self.connect()
        return await cast("Pipe", self._pipe).execute(*parts)

    # --- declaring

    @property
    def job_types(self) -> Mapping[str, JobTypeSpec]:
        """The declared job types, by name."""
        return MappingProxyType(self._types)

    def handler(
        self,
        name: str,
        *,
        concurrency: int | None = None,
        rate_limit: tuple[int, timedelta] | None = None,
        timeout: timedelta | None = None,
        isolation: Isolation | Literal["async", "thread", "process"] | None = None,
        max_crashes: int | None = None,
        priority: int | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        backoffs: Mapping[str, BackoffStrategy] | None = None,
        keep_completed: Retention | None = None,
        keep_failed: Retention | None = None,
        aliases: Iterable[str] = (),
        per_user: PerUser | None = None,
        description: str = "",
    ) -> Callable[[H], H]:
        """Declare a job type by its handler; payload and result types are read from the annotations.

        ::

            @corral.handler("thumbnail", concurrency=5, timeout=timedelta(minutes=5))
            async def thumbnail(job: Job[Thumbnail]) -> Size: ...

        Args:
            name: The job type's name, which is its queue's too.
            concurrency: Jobs at once per worker process.
            rate_limit: ``(jobs, window)``: at most so many starts in each window, over all workers and languages.
            timeout: Longest run of one attempt.
            isolation: Default: the event loop for async functions, a thread for plain ones; or ``process``.
            max_crashes: How many workers one job may take down before it fails.
            priority: Default of its jobs; so ``attempts``, ``backoff``, ``keep_completed``, ``keep_failed``.
            backoffs: Back-off strategies of its own, by the name that ``Backoff.kind`` gives.
            aliases: Further job names to accept, as other producers call them.
            per_user: Let its users take turns, and bound how many jobs of one wait and run.

        Raises:
            ConfigurationError: The name is taken, or something in it doesn't fit.
        """
        limit = RateLimit(max_jobs=rate_limit[0], duration=rate_limit[1]) if rate_limit is not None else None
        defaults = self._defaults(priority, attempts, backoff, keep_completed, keep_failed)

        def declare(handler: H) -> H:
            self._declare(
                from_handler(
                    name,
                    handler,
                    concurrency=concurrency,
                    rate_limit=limit,
                    timeout=timeout,
                    isolation=isolation,
                    max_crashes=max_crashes,
                    defaults=defaults,
                    backoffs=dict(backoffs or {}),
                    aliases=frozenset(aliases),
                    per_user=per_user,
                    description=description,
                )
            )
            return handler

        return declare

    def declare(
        self,
        name: str,
        *,
        payload: Any = None,
        result: Any = None,
        priority: int | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        keep_completed: Retention | None = None,
        keep_failed: Retention | None = None,
        aliases: Iterable[str] = (),
        per_user: PerUser | None = None,
        description: str = "",
    ) -> JobTypeSpec:
        """Declare a job type whose workers live elsewhere, in Node say.

        Args:
            payload: The model of its payload, or anything else that Pydantic validates; None takes any JSON.
            result: The model of its result; None gives results as plain JSON.
            per_user: As its workers declare it.

        Raises:
            ConfigurationError: The name is taken.
        """
        spec = JobTypeSpec(
            name=name,
            payload=payload,
            result=result,
            defaults=self._defaults(priority, attempts, backoff, keep_completed, keep_failed),
            aliases=frozenset(aliases),
            per_user=per_user,
            description=description,
        )
        self._declare(spec)
        return spec

    def _declare(self, spec: JobTypeSpec) -> None:
        if spec.name in self._types:
            raise ConfigurationError(f"The job type {spec.name!r} is declared already; each name once.")
        self._types[spec.name] = spec

    def _defaults(
        self,
        priority: int | None,
        attempts: int | None,
        backoff: Backoff | None,
        keep_completed: Retention | None,
        keep_failed: Retention | None,
    ) -> JobOptions:
        return options_from(
            default_options(self.settings),
            {
                "priority": priority,
                "attempts": attempts,
                "backoff": backoff,
                "keep_completed": keep_completed,
                "keep_failed": keep_failed,
            },
        )

    # --- adding

    async def add_job(
        self,
        job_type: str,
        data: Any,
        *,
        priority: int | None = None,
        delay: timedelta | None = None,
        run_at: datetime | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        job_id: str | None = None,
        lifo: bool | None = None,
        deduplication: Deduplication | None = None,
        keep_completed: Retention | None = None,
        keep_failed: Retention | None = None,
        keep_logs: int | None = None,
        trace_context: str | None = None,
    ) -> QueuedJob[Any]:
        """Add a job.

        Args:
            job_type: A declared name, or a :class:`corral.JobType`.
            data: The payload: its model, or a mapping in snake_case or camelCase.
            priority: 0 is the most urgent; default ``JobPriority.MEDIUM``.
            delay: Wait at least this long first; ``run_at`` names the instant instead.
            attempts: Tries in all.
            job_id: An id of one's own: adding it twice is one job.
            lifo: Ahead of its equals; needs priority 0.
            trace_context: W3C trace context, as BullMQ's telemetry carries it.

        Raises:
            PayloadInvalid: The payload or an option doesn't fit; says which and why. Nothing reached Redis.
            TooManyJobs: As many of this user's jobs wait as ``per_user`` lets; nothing was added.
            UnknownJobType: No such job type is declared.
            StoreUnavailable: Redis can't be reached; when the connection broke before the answer, the job may have
                been added: an id of one's own makes adding it again safe.
        """
        queue = self._queue_now(job_type) if self._pipe is not None else await self._queue(job_type)
        options = queue.options(
            {
                "priority": priority,
                "delay": delay,
                "run_at": run_at,
                "attempts": attempts,
                "backoff": backoff,
                "job_id": job_id,
                "lifo": lifo,
                "deduplication": deduplication,
                "keep_completed": keep_completed,
                "keep_failed": keep_failed,
                "keep_logs": keep_logs,
                "trace_context": trace_context or self._trace_context(),
            }
        )
        return await queue.add(data, options)

    async def add_jobs(self, job_type: str, items: Sequence[Any], **options: Any) -> list[QueuedJob[Any]]:
        """Add many jobs at once: all or none of each 5,000.

        Args:
            items: Payloads.
            options: As of ``add_job``, the same for all.

        Raises:
            PayloadInvalid: A payload doesn't fit; says which. Nothing reached Redis.
        """
        queue = await self._queue(job_type)
        options.setdefault("trace_context", self._trace_context())
        return await queue.add_many(items, queue.options(options))

    async def add_flow(self, flow: Flow) -> FlowJob:
        """Add a tree of jobs, all or none; a parent starts when its children have ended.

        Raises:
            PayloadInvalid: A payload or option doesn't fit. Nothing reached Redis.
        """
        await self.connect()
        return await add_flow(flow, self._queue_now, trace_context=self._trace_context())

    # --- asking

    async def get_job_status(self, job_type: str, job_id: str) -> JobStatus:
        """One job: state, progress, result, error, attempts, times.

        Raises:
            JobNotFound: There is none of this id.
        """
        return await (await self._queue(job_type)).status(job_id)

    async def list_jobs(
        self,
        job_type: str,
        states: Iterable[JobState] | None = None,
        *,
        offset: int = 0,
        limit: int = 50,
        newest_first: bool = True,
    ) -> list[JobStatus]:
        """Jobs in the given states (default: all, active ones first), state after state."""
        queue = await self._queue(job_type)
        return await queue.list_jobs(states, offset=offset, limit=limit, newest_first=newest_first)

    async def get_job_logs(self, job_type: str, job_id: str, *, offset: int = 0, limit: int = 1_000) -> JobLogs:
        """A part of a job's log, oldest line first.

        Raises:
            JobNotFound: There is no such job.
        """
        return await (await self._queue(job_type)).logs(job_id, offset=offset, limit=limit)

    async def get_artifact(self, job_type: str, job_id: str, name: str) -> FoundArtifact:
        """A file that a test run left: a screenshot, a report.

        Args:
            job_type: Of the job.
            job_id: Of the job.
            name: The artifact's ``stored_as``, from the job's result.

        Raises:
            JobNotFound: There is no such job.
            ArtifactNotFound: It left no such file, or the file is no longer kept.
        """
        from corral.jobs.test_execution.artifacts import find_artifact  # noqa: PLC0415 - models that few callers need

        status = await self.get_job_status(job_type, job_id)
        project = status.data.get("projectId") if isinstance(status.data, dict) else None
        return await find_artifact(self.parts.artifacts, project, status.result, name)

    async def wait_for_result(
        self, job: QueuedJob[Any] | tuple[str, str] | FlowJob, *, timeout: timedelta | None = None
    ) -> Any:
        """A job's result, as soon as it is there, without asking again and again.

        Args:
            job: What ``add_job`` gave, or ``(job type, id)``.
            timeout: None waits for ever.

        Raises:
            JobFailed: It failed; JobCancelled when somebody cancelled it.
            JobNotFound: It is not there.
            ResultTimedOut: Not in time; the job goes on.
        """
        if isinstance(job, FlowJob):
            job = job.job
        job_type, job_id = (job.job_type, job.id) if isinstance(job, QueuedJob) else job
        queue = await self._queue(job_type)
        waiter = self._waiters.get(queue.spec.name)
        if waiter is None:
            waiter = self._waiters[queue.spec.name] = ResultWaiter(queue, cast("Connector", self._connector))
        return await waiter.result(job_id, timeout)

    async def events(self, job_type: str, *, after: str | None = None) -> AsyncIterator[QueueEvent]:
        """What happens in a queue, from now on or from a known event on; goes on through outages."""
        queue = await self._queue(job_type)
        reader = EventReader(queue, cast("Connector", self._connector))
        async with contextlib.aclosing(reader.follow(after)) as events:
            async for event in events:
                yield event

    async def get_queue_stats(self, job_type: str) -> QueueStats:
        """How many jobs a queue holds, by state."""
        return await (await self._queue(job_type)).stats()

    async def get_queue_users(self, job_type: str, *, limit: int = 100) -> list[UserShare]:
        """How a queue with ``per_user`` stands by user, the one with the most jobs in line first."""
        return await users_of(await self._queue(job_type), limit=limit)

    async def get_metrics(
        self, job_type: str, target: Literal["completed", "failed"] = "completed", *, points: int = 60
    ) -> QueueMetrics:
        """Ended jobs per minute, newest first, in BullMQ's own counters."""
        return await (await self._queue(job_type)).metrics(target, points=points)

    async def list_workers(self, job_type: str) -> list[WorkerInfo]:
        """Workers of a queue that are connected now, in whatever language."""
        return await (await self._queue(job_type)).workers()

    # --- managing one job

    async def cancel_job(self, job_type: str, job_id: str, *, reason: str = "", by: str | None = None) -> Cancellation:
        """Remove a job that has not started, or stop an active one, on whichever machine it runs.

        An active job ends as failed, with a reason that says cancelled, by whom and why; it is not retried.

        Raises:
            JobNotFound: There is no such job.
            JobStateConflict: It has ended already, or runs on a worker that is not one of Corral's.
        """
        return await (await self._queue(job_type)).cancel(job_id, reason=reason, by=by)

    async def retry_job(self, job_type: str, job_id: str) -> None:
        """Put an ended job back into its queue, its attempts counted anew.

        Raises:
            JobNotFound: There is no such job.
            JobStateConflict: It has not ended.
        """
        await (await self._queue(job_type)).retry(job_id)

    async def promote_job(self, job_type: str, job_id: str) -> None:
        """Let a delayed job start now.

        Raises:
            JobNotFound: There is no such job.
            JobStateConflict: It is not delayed.
        """
        await (await self._queue(job_type)).promote(job_id)

    async def remove_job(self, job_type: str, job_id: str) -> None:
        """Remove a job that is not active, with a flow's children.

        Raises:
            JobNotFound: There is no such job.
            JobStateConflict: It is active (cancel it), or belongs to a schedule.
        """
        await (await self._queue(job_type)).remove(job_id)

    # --- managing a queue

    async def pause_queue(self, job_type: str) -> None:
        """Let no worker, in whatever language, start a job of this queue; active ones go on."""
        await (await self._queue(job_type)).pause()

    async def resume_queue(self, job_type: str) -> None:
        """Undo ``pause_queue``."""
        await (await self._queue(job_type)).resume()

    async def clean_queue(
        self,
        job_type: str,
        grace_ms: int | timedelta,
        *,
        states: Iterable[JobState] = (JobState.COMPLETED, JobState.FAILED),
        limit: int = 0,
    ) -> list[str]:
        """Remove jobs that ended longer ago than ``grace_ms`` milliseconds.

        Args:
            grace_ms: Or a ``timedelta``.
            states: Also waiting, prioritized or delayed jobs, by their age.
            limit: At most this many per call; 0 means all.

        Returns:
            The ids that were removed.
        """
        grace = grace_ms if isinstance(grace_ms, timedelta) else timedelta(milliseconds=grace_ms)
        return await (await self._queue(job_type)).clean(grace, states=states, limit=limit)

    async def drain_queue(self, job_type: str, *, delayed: bool = False) -> None:
        """Remove all jobs that wait, and the delayed ones too when asked."""
        await (await self._queue(job_type)).drain(delayed=delayed)

    async def obliterate_queue(self, job_type: str, *, force: bool = False) -> None:
        """Remove a queue with all its jobs.

        Raises:
            JobStateConflict: Jobs are active, and ``force`` is not set.
        """
        await (await self._queue(job_type)).obliterate(force=force)

    async def retry_jobs(
        self,
        job_type: str,
        *,
        state: Literal[JobState.FAILED, JobState.COMPLETED] = JobState.FAILED,
        limit: int = 1_000,
    ) -> int:
        """Put ended jobs back, oldest first.

        Returns:
            How many.
        """
        return await (await self._queue(job_type)).retry_many(state=state, limit=limit)

    async def promote_jobs(self, job_type: str) -> int:
        """Let all delayed jobs start now.

        Returns:
            How many.
        """
        return await (await self._queue(job_type)).promote_many()

    async def set_rate_limit(self, job_type: str, max_jobs: int | None, duration: timedelta | None = None) -> None:
        """Bound the starts of a queue's jobs over all workers and languages; None lifts the bound."""
        await (await self._queue(job_type)).set_rate_limit(max_jobs, duration)

    async def set_global_concurrency(self, job_type: str, limit: int | None) -> None:
        """Bound a queue's active jobs over all workers and languages; None lifts the bound."""
        await (await self._queue(job_type)).set_global_concurrency(limit)

    # --- schedules

    async def add_schedule(
        self,
        job_type: str,
        schedule_id: str,
        *,
        data: Any,
        cron: str | None = None,
        time_zone: str | None = None,
        every: timedelta | None = None,
        limit: int | None = None,
        start_at: datetime | None = None,
        end_at: datetime | None = None,
        priority: int | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
    ) -> str:
        """Make or change a schedule, which adds a job at each due time.

        Args:
            cron: Five fields, or six with seconds first; ``every`` gives an interval instead.
            time_zone: IANA name, for ``cron``; default UTC.
            limit: How many jobs it makes in all.

        Returns:
            The id of its next job.

        Raises:
            PayloadInvalid: The payload, the expression or the combination doesn't fit.
        """
        queue = await self._queue(job_type)
        options = options_from(queue.spec.defaults, {"priority": priority, "attempts": attempts, "backoff": backoff})
        return await scheduler.add_schedule(
            queue,
            schedule_id,
            data=data,
            options=options,
            cron=cron,
            time_zone=time_zone,
            every=every,
            limit=limit,
            start_at=start_at,
            end_at=end_at,
        )

    async def list_schedules(self, job_type: str) -> list[Schedule]:
        """A queue's schedules, next due first."""
        return await scheduler.list_schedules(await self._queue(job_type))

    async def remove_schedule(self, job_type: str, schedule_id: str) -> None:
        """Remove a schedule and its next job.

        Raises:
            JobNotFound: There is no such schedule.
        """
        await scheduler.remove_schedule(await self._queue(job_type), schedule_id)

    # --- workers

    async def start_workers(self, job_types: Iterable[str] | None = None, *, concurrency: int | None = None) -> Workers:
        """Start workers in this event loop.

        Args:
            job_types: Default: all that were declared with a handler here, or the four job types when none was.
            concurrency: Jobs at once per queue; default: the job type's, else the settings'.

        Raises:
            UnknownJobType: No such job type is declared.
            ConfigurationError: One has no handler here, or there is none at all.
            StoreUnsuitable: This Redis would lose jobs.
        """
        if job_types is not None:
            names = list(dict.fromkeys(str(name) for name in job_types))
        else:
            served = [name for name, spec in self._types.items() if spec.handler is not None]
            names = [name for name in served if name not in self._builtin] or served
        if not names:
            raise ConfigurationError("There is nothing to work on: no job type with a handler is declared.")
        queues = [await self._queue(name) for name in names]
        if not self._checked:
            from corral.wire.server import check_server  # noqa: PLC0415 - see connect

            await check_server(self.redis, await self._address())
            self._checked = True
        # Whoever only adds jobs does not pay for importing what runs them.
        from corral.queue.worker import WorkerSettings  # noqa: PLC0415
        from corral.queue.workers import Workers  # noqa: PLC0415

        settings = self.settings
        workers = Workers(
            queues,
            pipe=cast("Pipe", self._pipe),
            connector=cast("Connector", self._connector),
            outage=self._outage,
            settings=WorkerSettings(
                concurrency=settings.concurrency,
                max_crashes=settings.max_crashes,
                keep_completed=Retention(age=settings.keep_completed),
                keep_failed=Retention(age=settings.keep_failed),
                metrics_minutes=settings.metrics_minutes,
                observer=self.observer,
            ),
            lease=settings.lease,
            shutdown_timeout=settings.shutdown_timeout,
            concurrency=concurrency,
        )
        await workers.start()
        self._workers.append(workers)
        return workers

    async def start_ushers(self) -> None:
        """Look after the queues with ``per_user`` from this process, whose workers are all elsewhere.

        Corral's workers do it for their own queues. Where all workers are of another language, one process has to, for
        ``max_active`` above all: it gives the place of a job that has ended to the user's next one. They stop with
        ``stop_workers`` and ``close``.
        """
        for name, spec in self._types.items():
            if spec.per_user is not None:
                usher = Usher(await self._queue(name))
                usher.start()
                self._ushers.append(usher)

    # --- inside

    def _trace_context(self) -> str | None:
        return self.observer.trace_context() if self.observer is not None else None

    async def _queue(self, job_type: str) -> Queue:
        if self._pipe is None:
            self._spec(str(job_type))
            await self.connect()
        return self._queue_now(job_type)

    def _queue_now(self, job_type: str) -> Queue:
        queue = self._queues.get(job_type)
        if queue is not None:
            return queue
        name = str(job_type)
        queue = self._queues[name] = Queue(self._spec(name), cast("Pipe", self._pipe), self.prefix)
        return queue

    def _spec(self, name: str) -> JobTypeSpec:
        spec = self._types.get(name)
        if spec is None:
            known = ", ".join(sorted(self._types)) or "none"
            raise UnknownJobType(f"No job type {name!r} is declared; known are: {known}.")
        return spec


def _settings_of_the_environment() -> Settings:
    # Pydantic builds its machinery with the first model: not by an import alone.
    from corral.settings import read_settings  # noqa: PLC0415

    return read_settings()


def default_options(settings: Settings) -> JobOptions:
    """The options of a job whose type and producer say nothing."""
    return JobOptions(
        attempts=settings.attempts,
        backoff=Backoff(settings.backoff),
        keep_completed=Retention(age=settings.keep_completed),
        keep_failed=Retention(age=settings.keep_failed),
    )
