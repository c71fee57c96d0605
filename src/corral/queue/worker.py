"""The worker of one queue: lanes that claim, run and finish jobs, each finish fetching the next in one round trip.

An idle worker costs almost nothing: one blocking command waits for the queue's marker. Everything that may make a job
ready besides (a due delay, an opened rate limit, a housekeeper's find) sets the same wake-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any

import pydantic_core

from corral.errors import JobNotFound, JobStateConflict, LeaseLost, StoreError, StoreUnavailable, Unrecoverable
from corral.queue.definition import Isolation, JobTypeSpec
from corral.queue.isolation import ProcessRunner
from corral.queue.job import Job, Progress
from corral.queue.lease import Held, LeaseKeeper
from corral.queue.observer import JobObserver
from corral.queue.options import Retention
from corral.queue.queue import Queue
from corral.queue.retry import TRACES_KEPT, Decision, Verdict, decide, reason_of, trace_of
from corral.queue.scheduler import schedule_next
from corral.queue.status import CANCELLED_PREFIX, user_of
from corral.queue.usher import HeldBack, Usher
from corral.wire.codec import JobRecord, decode_json, instant, packed
from corral.wire.pipe import ConnectionLost, NotConnected, Pipe, Reply, ReplyError, pack, reply_failure
from corral.wire.scripts import NOTHING, Claim, Code, bulk, check_code, now_ms, read_claim

logger = logging.getLogger("corral.queue")

#: Redis answers a blocking command with nothing after this time, and it is asked again. Long, as each asking is a
#: command that a server may bill; dead connections are noticed by TCP's keep-alive.
BLOCK_S = 60
#: A handler that is told to stop has this long before its outcome is recorded without it.
STOP_GRACE_S = 5.0
#: Jobs past their age are looked for this often at most, and not with each of thousands of finishes in a second; up
#: to 1,000 go each time. Ages shorter than ``TRIM_AGE_S`` are kept to the finish.
TRIM_EVERY_S = 0.05
TRIM_AGE_S = 60
#: How long a Redis that answers and refuses (out of memory, say) is left alone before it is asked again.
_REFUSED_PAUSE_S = 0.5
#: BullMQ's "unlimited": a queue needs some limit for a temporary pause to be looked at.
_NO_LIMIT = 2**53 - 1


class Interruption(StrEnum):
    """Why a running handler is told to stop."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    LEASE_LOST = "lease_lost"
    SHUTDOWN = "shutdown"


@dataclass(eq=False, slots=True)
class Lane:
    """One of a worker's places for a job."""

    number: int
    token: str
    fetch_options: bytes
    task: asyncio.Task[None] | None = None
    job_id: str | None = None
    held: Held | None = None
    #: Whether the handler runs now: only then may the lane's task be cancelled.
    in_handler: bool = False
    interruption: Interruption | None = None
    reason: str = ""
    #: Set when the outcome was recorded without waiting for a handler that would not stop.
    recorded: asyncio.Task[None] | None = None
    finish_options: dict[tuple[str, str], tuple[bytes, bytes]] = field(default_factory=dict)


class _JobReporter:
    """Writes a running job's news to Redis, for as long as the lease is ours."""

    __slots__ = ("_held", "_lane", "_worker")

    def __init__(self, worker: Worker, lane: Lane) -> None:
        self._worker = worker
        self._lane = lane
        self._held = lane.held

    @property
    def _job_id(self) -> str:
        lane = self._lane
        if self._held is None or lane.held is not self._held or lane.interruption is Interruption.LEASE_LOST:
            raise LeaseLost("This job is no longer this worker's; its news are not written.")
        return self._held.job_id

    async def progress(self, value: Progress) -> None:
        await self._worker.queue.scripts.progress(self._job_id, pydantic_core.to_json(value, inf_nan_mode="null"))

    async def log(self, lines: list[str]) -> None:
        if lines:
            await self._worker.queue.scripts.log(self._job_id, lines, keep=self._worker.keep_logs)

    async def children_results(self) -> dict[str, Any]:
        found = await self._worker.pipe.execute("HGETALL", f"{self._worker.queue.keys.job(self._job_id)}:processed")
        pairs = iter(found)
        return {str(key): decode_json(value) for key, value in zip(pairs, pairs, strict=True)}

    async def children_failures(self) -> dict[str, str]:
        found = await self._worker.pipe.execute("HGETALL", f"{self._worker.queue.keys.job(self._job_id)}:failed")
        pairs = iter(found)
        return {str(key): str(value) for key, value in zip(pairs, pairs, strict=True)}


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """What the workers of one process share."""

    #: Jobs at once, where the job type says nothing.
    concurrency: int = 5
    max_crashes: int = 3
    keep_completed: Retention | None = None
    keep_failed: Retention | None = None
    keep_logs: int | None = 10_000
    #: Minutes of BullMQ's metrics to keep; 0 counts nothing.
    metrics_minutes: int = 1_440
    #: Looks on; None costs nothing.
    observer: JobObserver | None = None


class Worker:
    """Runs the jobs of one queue.

    Args:
        queue: The queue, whose job type has a handler.
        pipe: Shared by the workers of a process.
        blocker: This worker's connection for the one blocking command.
        leases: Shared by the workers of a process.
        name: Unique per process; recorded with each job that it claims.
        concurrency: Jobs at once.
    """

    def __init__(
        self,
        queue: Queue,
        *,
        pipe: Pipe,
        blocker: Pipe,
        leases: LeaseKeeper,
        name: str,
        concurrency: int,
        settings: WorkerSettings,
    ) -> None:
        self.queue = queue
        self.spec: JobTypeSpec = queue.spec
        self.pipe = pipe
        self.name = name
        self.concurrency = concurrency
        self.keep_logs = settings.keep_logs
        self._blocker = blocker
        self._settings = settings
        self._observer = settings.observer
        self._lease_ms = leases.lease_ms
        self._held = leases.queue(queue.keys)
        self._wake = asyncio.Event()
        self._freed = asyncio.Event()
        self._idle: list[Lane] = [self._make_lane(number) for number in reversed(range(concurrency))]
        self._busy: dict[int, Lane] = {}
        self._listening = False
        self._wait_for_marker = pack("BZPOPMIN", queue.keys.marker, BLOCK_S)
        #: Claims that were sent outside the feeder and not answered yet.
        self._asked = 0
        self._returning: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._feeder: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._base_context = contextvars.copy_context()
        self._threads = (
            ThreadPoolExecutor(concurrency, thread_name_prefix=f"corral-{queue.spec.name}")
            if queue.spec.isolation is Isolation.THREAD
            else None
        )
        self._processes = ProcessRunner(queue.spec, concurrency) if queue.spec.isolation is Isolation.PROCESS else None
        #: Of a queue whose users share it.
        self.usher = Usher(queue) if queue.spec.per_user is not None else None
        self._places = self.usher if self.usher is not None and self.usher.max_active else None
        self._trim_at = {"completed": 0.0, "failed": 0.0}
        self._in_loop = queue.spec.isolation is Isolation.ASYNC
        self._timeout_s = queue.spec.timeout.total_seconds() if queue.spec.timeout is not None else None

    # --- life

    def start(self) -> None:
        """Begin to claim jobs."""
        loop = asyncio.get_running_loop()
        self._wake.set()
        self.pipe.on_reconnect.append(self._reconnected)
        self._blocker.on_reconnect.append(self.wake)
        self._feeder = loop.create_task(self._feed(), name=f"corral-feed-{self.spec.name}")
        if self.usher is not None:
            self.usher.start()

    def wake(self) -> None:
        """Look for a job soon: there may be one."""
        self._wake.set()

    @property
    def active(self) -> list[str]:
        """Ids of the jobs that run now."""
        return [lane.job_id for lane in self._busy.values() if lane.job_id is not None]

    @property
    def knows_next_delay(self) -> bool:
        """Whether a timer is set for the queue's next delayed job, so that nobody has to look for it."""
        return self._timer is not None

    def stop_claiming(self) -> None:
        """Claim no more; active jobs go on."""
        self._stopping.set()
        self._wake.set()
        self._freed.set()
        if self._timer is not None:
            self._timer.cancel()

    async def stop(self, timeout: timedelta) -> None:
        """Claim no more, wait for active jobs, then put back those that have not ended."""
        self.stop_claiming()
        if self._feeder is not None:
            await asyncio.gather(self._feeder, return_exceptions=True)
        deadline = time.monotonic() + STOP_GRACE_S
        while self._asked and time.monotonic() < deadline:  # noqa: ASYNC110 - an event would be set on the hot path
            await asyncio.sleep(0.01)
        await asyncio.gather(*self._returning, return_exceptions=True)
        tasks = [lane.task for lane in self._busy.values() if lane.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.0, timeout.total_seconds()))
        self.interrupt_all(Interruption.SHUTDOWN, "the worker is stopped")
        tasks = [lane.task for lane in self._busy.values() if lane.task is not None]
        if tasks:
            # The margin is for writing the outcome to a Redis that is away just now.
            await asyncio.wait(tasks, timeout=STOP_GRACE_S + 3)
        for lane in list(self._busy.values()):
            logger.warning("%s: job %s would not stop; it has been given back", self.spec.name, lane.job_id)
            if lane.task is not None:
                lane.task.cancel()
        if self.usher is not None:
            await self.usher.stop()
        with contextlib.suppress(ValueError):  # never started
            self.pipe.on_reconnect.remove(self._reconnected)
        await self._blocker.close()
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        if self._processes is not None:
            await self._processes.close()

    def interrupt_all(self, why: Interruption, reason: str) -> None:
        """Tell every running handler to stop."""
        for lane in list(self._busy.values()):
            self._interrupt(lane, why, reason)

    def cancel(self, job_id: str, reason: str) -> bool:
        """Stop a job if it runs here.

        Returns:
            Whether it does.
        """
        for lane in self._busy.values():
            if lane.job_id == job_id:
                self._interrupt(lane, Interruption.CANCELLED, reason)
                return True
        return False

    # --- finding jobs

    async def _feed(self) -> None:
        while not self._stopping.is_set():
            if not self._idle:
                self._freed.clear()
                await self._freed.wait()
                continue
            if not self._wake.is_set():
                self._listen()
                await self._wake.wait()
                continue
            self._wake.clear()
            lane = self._idle.pop()
            try:
                claim = await self._claim(lane)
            except BaseException:
                self._idle.append(lane)
                raise
            if claim.record is None:
                self._idle.append(lane)
                self._expect(claim)
            elif self._stopping.is_set():
                self._idle.append(lane)
                await self._give_back(claim.record.id, lane)
            else:
                self._start(lane, claim.record)

    async def _claim(self, lane: Lane) -> Claim:
        """Ask for a job, as often as it takes to get an answer."""
        scripts = self.queue.scripts
        while True:
            try:
                return read_claim(await scripts.answer("moveToActive", scripts.fetch_command(lane.fetch_options)))
            except StoreError as error:
                # What was claimed without our hearing of it is found by the reconciliation after the reconnection.
                if self._stopping.is_set():
                    return NOTHING
                await self._connection(error)

    async def _connection(self, error: StoreError) -> None:
        """Return when there is a connection again, or the worker stops.

        Args:
            error: Why it is asked for. A server that answers, but does not carry it out (it is busy with a script, out
                of memory, its Cluster is down), is given a pause.
        """
        await asyncio.sleep(0)
        if not isinstance(error, ConnectionLost | NotConnected):
            self.pipe.refused(error)
            if self.pipe.connected:
                await asyncio.sleep(_REFUSED_PAUSE_S)
        waiter = asyncio.ensure_future(self.pipe.wait_connected())
        while not waiter.done() and not self._stopping.is_set():
            await asyncio.wait({waiter}, timeout=0.5)
        waiter.cancel()

    def _listen(self) -> None:
        """Have the one blocking command out."""
        if self._listening or not self._blocker.connected:
            return
        try:
            self._blocker.send_for(self._wait_for_marker, self._marked)
        except StoreUnavailable:
            return  # it has just broken; its return wakes us
        self._listening = True

    def _marked(self, reply: Reply | None, error: BaseException | None) -> None:
        """Act on a marker, in the turn of the loop in which it came."""
        self._listening = False
        if error is not None or self._stopping.is_set():
            return  # the return of the connection wakes us; Workers.stop sets every marker again
        if isinstance(reply, ReplyError):
            self.pipe.refused(reply_failure(reply))
            asyncio.get_running_loop().call_later(1.0, self.wake)
            return
        if reply is None:
            # Nothing came for a minute. A marker that was lost with another worker is made good by the housekeeper,
            # which sees the job itself: looking here too would cost each queue a script a minute.
            if self._idle:
                self._listen()
            return
        member, score = str(reply[1]), float(reply[2])
        if not self._idle:
            # Taken from a worker that has room: it was asked for before our last lane was filled.
            self._put_marker_back(member, score)
        elif score > now_ms():
            self._wake_at(score)
            self._listen()
        else:
            self._claim_at_once()

    def _claim_at_once(self) -> None:
        """Ask for the job that a marker tells of, without the turns of the loop that waking the feeder would take."""
        lane = self._idle.pop()
        try:
            self.pipe.send_for(self.queue.scripts.fetch_command(lane.fetch_options), partial(self._claimed, lane))
        except StoreUnavailable:
            self._idle.append(lane)
            self._wake.set()
        else:
            self._asked += 1

    def _claimed(self, lane: Lane, reply: Reply | None, error: BaseException | None) -> None:
        self._asked -= 1
        claim = NOTHING
        if error is not None or isinstance(reply, ReplyError):
            # The feeder asks again, and mends what is to be mended; a claim that was lost is found after reconnecting.
            self._wake.set()
        else:
            claim = read_claim(reply)
        if claim.record is None:
            self._idle.append(lane)
            self._freed.set()
            self._expect(claim)
        elif self._stopping.is_set():
            self._idle.append(lane)
            self._returning.add(asyncio.ensure_future(self._give_back(claim.record.id, lane)))
        else:
            self._start(lane, claim.record)
        if not self._stopping.is_set() and self._idle and not self._wake.is_set():
            self._listen()

    def _put_marker_back(self, member: str = "0", score: float = 0) -> None:
        """Wake another worker of the queue, in whatever language."""
        try:
            self.pipe.send(pack("ZADD", self.queue.keys.marker, f"{score:.0f}", member))
        except StoreUnavailable:
            return  # the reconnection wakes everybody

    def _expect(self, claim: Claim) -> None:
        """Set the timer for what a claim without a job says of the future."""
        if claim.limited_ms:
            self._wake_at(now_ms() + claim.limited_ms + 1)
        if claim.next_delayed_ms:
            self._wake_at(claim.next_delayed_ms)

    def _wake_at(self, at_ms: float) -> None:
        """Wake at a time; of several, at the earliest, which then asks for the next."""
        now = now_ms()
        if self._timer is not None and self._timer_at > now and self._timer_at <= at_ms:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at_ms
        # A day at most: event loops don't take any number of seconds.
        delay_s = min(max(0.0, (at_ms - now) / 1000), 86_400.0)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._idle:
            self._wake.set()
        elif not self._stopping.is_set():
            # We took the marker of this delay and have no lane for it: another worker may.
            self._put_marker_back()

    def _reconnected(self) -> None:
        self._wake.set()
        self._blocker.drop()  # it may hang on the broken path without knowing
        asyncio.get_running_loop().create_task(self._reconcile(), name="corral-reconcile")

    async def _reconcile(self) -> None:
        """Give back jobs that were claimed for us in answers that never arrived."""
        try:
            first = await self._strays()
            if not first:
                return
            # What was on its way is known by then.
            await asyncio.sleep(1.0)
            second = await self._strays()
            for job_id in first.keys() & second.keys():
                logger.warning(
                    "%s: job %s was claimed in an answer that got lost; back it goes", self.spec.name, job_id
                )
                await self.queue.scripts.give_back(job_id, token=second[job_id])
        except (StoreError, JobNotFound, LeaseLost) as error:
            logger.debug("%s: not reconciled: %s", self.spec.name, error)

    async def _strays(self) -> dict[str, str]:
        k = self.queue.keys
        ids = [str(job_id) for job_id in await self.pipe.execute("LRANGE", k.active, 0, -1)]
        if not ids:
            return {}
        tokens = await self.pipe.execute("MGET", *(k.lock(job_id) for job_id in ids))
        return {
            job_id: str(token)
            for job_id, token in zip(ids, tokens, strict=True)
            if token is not None and str(token).startswith(f"{self.name}:") and job_id not in self._held
        }

    # --- running jobs

    def _make_lane(self, number: int) -> Lane:
        token = f"{self.name}:{number}"
        options = packed({"token": token, "lockDuration": self._lease_ms, "name": self.name})
        return Lane(number, token, options)

    def _start(self, lane: Lane, record: JobRecord) -> None:
        self._busy[lane.number] = lane
        self._hold(lane, record.id)
        lane.task = asyncio.get_running_loop().create_task(
            self._run(lane, record), name=f"corral-{self.spec.name}-{lane.number}", context=self._base_context.copy()
        )

    async def _run(self, lane: Lane, record: JobRecord | None) -> None:
        """Work off one job after another until there is none."""
        claim = NOTHING
        baseline = contextvars.copy_context()
        while record is not None:
            try:
                claim = await self._work(lane, record)
            except Exception:
                # A fault of ours: the lease runs out, and the job is found by the sweep.
                logger.exception("%s: job %s was dropped by its lane", self.spec.name, record.id)
                claim = NOTHING
            record = claim.record
            if record is not None:
                self._hold(lane, record.id)
                if self._stopping.is_set():
                    await self._give_back(record.id, lane)
                    record, claim = None, NOTHING
                elif contextvars.copy_context() != baseline:
                    # The handler left context variables behind: the next job gets a task without them.
                    self._start(lane, record)
                    return
        self._release(lane)
        del self._busy[lane.number]
        self._idle.append(lane)
        self._freed.set()
        self._expect(claim)
        if not self._stopping.is_set():
            self._listen()

    def _hold(self, lane: Lane, job_id: str) -> None:
        earlier = self._held.get(job_id)
        if earlier is not None:
            # This process lost the job (it was frozen past its lease) and has got it back before it noticed: the keeper
            # would from now on renew the new lease only.
            self._lost(earlier)
        lane.job_id = job_id
        lane.held = self._held[job_id] = Held(job_id, lane.token, self._lost)
        lane.interruption = None
        lane.reason = ""
        lane.recorded = None

    def _release(self, lane: Lane) -> None:
        held = lane.held
        if held is not None:
            if self._held.get(held.job_id) is held:
                del self._held[held.job_id]
            lane.held = None
        if self._places is not None and lane.job_id is not None:
            self._places.leave(lane.job_id)
        lane.job_id = None

    async def _work(self, lane: Lane, record: JobRecord) -> Claim:
        """Run one job and record what came of it.

        Returns:
            The next job, when the finish fetched one.
        """
        try:
            result = await self._execute(lane, record)
        except asyncio.CancelledError:
            error = self._interrupted(lane)
            if error is None:
                raise
            failure: BaseException = error
        except BaseException as error:  # noqa: BLE001 - whatever a handler raises is its job's outcome
            if isinstance(error, SystemExit | KeyboardInterrupt):
                error = Unrecoverable(f"The handler called for the process to end ({type(error).__name__}).")
            failure = error
        else:
            if lane.interruption in {None, Interruption.SHUTDOWN}:
                if lane.recorded is None:
                    return await self._finish(lane, record, "completed", result)
            elif lane.interruption is Interruption.LEASE_LOST:
                failure = LeaseLost()
            # A handler that took no notice: what it was told stands.
            failure = self._interrupted(lane) or LeaseLost()
        if lane.recorded is not None:
            await asyncio.gather(lane.recorded, return_exceptions=True)
            self._release(lane)
            return NOTHING if self._stopping.is_set() else await self._claim(lane)
        return await self._fail(lane, record, failure)

    async def _execute(self, lane: Lane, record: JobRecord) -> bytes:
        """Run the handler; everything that is wrong with the job itself is raised."""
        spec = self.spec
        if self._places is not None:
            await self._places.enter(record, lane.token)
        if record.scheduler_id is not None:
            await schedule_next(self.queue, record)
        deferred = record.deferred_failure
        if deferred is not None:
            raise Unrecoverable(
                f"{deferred} (workers died or lost their lease with it {record.crashes} times)", reason="crashed"
            )
        if record.name != spec.name and record.name not in spec.aliases:
            raise Unrecoverable(
                f"expected a job named {spec.name!r} on this queue, got {record.name!r}; "
                "declare the name as an alias of the job type if it is meant",
                reason="unknown_job_name",
            )
        data = spec.decode_payload(record.data)
        job: Job[Any] = Job(
            id=record.id,
            job_type=spec.name,
            data=data,
            attempt=record.attempts_made + 1,
            max_attempts=record.max_attempts,
            crashes=record.crashes,
            starts=record.starts,
            reported=record.progress,
            priority=record.number("priority"),
            created_at=instant(record.raw.get("timestamp")),
            user_id=user_of(data),
            trace_context=record.options.get("telemetryMetadata"),
            _reporter=_JobReporter(self, lane),
        )
        timer = None
        if self._timeout_s is not None:
            timer = asyncio.get_running_loop().call_later(
                self._timeout_s, self._interrupt, lane, Interruption.TIMED_OUT, f"took longer than {spec.timeout}"
            )
        lane.in_handler = True
        try:
            if self._observer is not None:
                result = await self._observed(lane, job, self._observer)
            else:
                # A plain async handler is called here: one more coroutine around it would be felt.
                result = await (spec.handler(job) if self._in_loop else self._call_elsewhere(job))  # type: ignore[misc]
        finally:
            lane.in_handler = False
            if timer is not None:
                timer.cancel()
        return spec.encode_result(result)

    async def _observed(self, lane: Lane, job: Job[Any], observer: JobObserver) -> Any:
        with observer.running(job) as seen:
            try:
                seen.result = await (self.spec.handler(job) if self._in_loop else self._call_elsewhere(job))  # type: ignore[misc]
            finally:
                seen.interruption = lane.interruption
            return seen.result

    async def _call_elsewhere(self, job: Job[Any]) -> Any:
        if self._processes is not None:
            return await self._processes.run(job)
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        handler: Callable[..., Any] = self.spec.handler  # type: ignore[assignment]  # a worker's type has one
        return await loop.run_in_executor(self._threads, context.run, handler, job.in_thread(loop))

    def _interrupt(self, lane: Lane, why: Interruption, reason: str) -> None:
        if not lane.in_handler or lane.task is None or lane.interruption is Interruption.LEASE_LOST:
            return
        if lane.interruption is not None and why is not Interruption.LEASE_LOST:
            return
        lane.interruption = why
        lane.reason = reason
        lane.task.cancel(reason)
        asyncio.get_running_loop().call_later(STOP_GRACE_S, self._record_without, lane, lane.held)

    def _interrupted(self, lane: Lane) -> BaseException | None:
        """What an interruption means for the job; None when the lane's own task was cancelled from outside."""
        task = lane.task
        why = lane.interruption
        if why is None:
            if task is not None and task.cancelling():
                return None
            return Unrecoverable("The handler cancelled itself.", reason="cancelled_itself")
        while task is not None and task.cancelling():
            task.uncancel()
        return _Interrupted(why, lane.reason)

    def _record_without(self, lane: Lane, held: Held | None) -> None:
        """Record the outcome of a job whose handler was told to stop and goes on."""
        if not lane.in_handler or lane.held is not held or lane.interruption is None or lane.recorded is not None:
            return
        logger.warning("%s: the handler of job %s takes no notice of being stopped", self.spec.name, lane.job_id)
        job_id = lane.job_id or ""
        failure = _Interrupted(lane.interruption, f"{lane.reason} (and its handler takes no notice)")
        lane.recorded = asyncio.get_running_loop().create_task(self._record(lane, job_id, failure))

    async def _record(self, lane: Lane, job_id: str, failure: _Interrupted) -> None:
        raw = await self.pipe.execute("HGETALL", self.queue.keys.job(job_id))
        pairs = iter(raw)
        await self._fail(lane, JobRecord(job_id, dict(zip(pairs, pairs, strict=True))), failure, fetch_next=False)

    def _lost(self, held: Held) -> None:
        """The lease keeper could not renew a lease."""
        for lane in self._busy.values():
            if lane.held is held and lane.in_handler:
                logger.warning("%s: the lease on job %s is lost; stopping its handler", self.spec.name, held.job_id)
                self._interrupt(lane, Interruption.LEASE_LOST, "its lease is lost")

    # --- recording what came of it

    async def _fail(self, lane: Lane, record: JobRecord, failure: BaseException, *, fetch_next: bool = True) -> Claim:
        try:
            if isinstance(failure, LeaseLost | HeldBack):
                return await self._abandon(lane, record, held_back=isinstance(failure, HeldBack))
            if isinstance(failure, _Interrupted):
                if failure.why is Interruption.LEASE_LOST:
                    return await self._abandon(lane, record)
                if failure.why is Interruption.SHUTDOWN:
                    await self._give_back(record.id, lane)
                    return NOTHING
            # A time-out is an ordinary failure; a cancellation is final.
            decision = (
                Decision(Verdict.FAIL)
                if isinstance(failure, _Interrupted) and failure.why is Interruption.CANCELLED
                else decide(failure, record, self.spec.backoffs)
            )
            reason = failure.reason if isinstance(failure, _Interrupted) else reason_of(failure)
            if decision.verdict is Verdict.PAUSE:
                await self._pause_queue(decision.delay)
                await self._give_back(record.id, lane)
                return NOTHING if self._stopping.is_set() else await self._claim(lane)
            traces = [*record.stacktrace, trace_of(failure, attempt=record.attempts_made + 1)][-TRACES_KEPT:]
            changed = ["failedReason", reason, "stacktrace", pydantic_core.to_json(traces).decode()]
            if decision.verdict is Verdict.FAIL:
                await self._forget_cancellation(lane, record)
                return await self._finish(
                    lane, record, "failed", reason.encode("utf-8", "replace"), changed=changed, fetch_next=fetch_next
                )
            await self._retry(lane, record, decision, changed)
        except (JobNotFound, JobStateConflict) as error:
            logger.warning("%s: the outcome of job %s can't be recorded: %s", self.spec.name, record.id, error)
        except LeaseLost as error:
            logger.warning("%s", error)
        self._release(lane)
        return NOTHING if self._stopping.is_set() or not fetch_next else await self._claim(lane)

    async def _forget_cancellation(self, lane: Lane, record: JobRecord) -> None:
        if lane.interruption is Interruption.CANCELLED:
            try:
                await self.pipe.execute("DEL", self.queue.keys.cancelled(record.id))
            except StoreError as error:
                logger.debug("the request to cancel %s is left to run out: %s", record.id, error)

    async def _abandon(self, lane: Lane, record: JobRecord, *, held_back: bool = False) -> Claim:
        """The job is another's now, or nobody's: write nothing."""
        if not held_back:
            logger.warning("%s: job %s is no longer ours; its outcome is dropped", self.spec.name, record.id)
        self._release(lane)
        return NOTHING if self._stopping.is_set() else await self._claim(lane)

    async def _retry(self, lane: Lane, record: JobRecord, decision: Decision, changed: list[str]) -> None:
        delay_ms = round(decision.delay.total_seconds() * 1000)
        scripts = self.queue.scripts

        async def write() -> None:
            if delay_ms > 0:
                await scripts.delay_again(record.id, token=lane.token, delay_ms=delay_ms, changed=changed)
                self._wake_at(now_ms() + delay_ms)
            else:
                await scripts.retry_now(
                    record.id, token=lane.token, lifo=bool(record.options.get("lifo")), changed=changed
                )

        await self._insist(lane, write)

    async def _give_back(self, job_id: str, lane: Lane) -> None:
        """Back to the head of its queue, without using an attempt."""
        try:
            await self._insist(lane, lambda: self.queue.scripts.give_back(job_id, token=lane.token))
            self._put_marker_back()
        except (JobNotFound, JobStateConflict, LeaseLost) as error:
            logger.info("%s: job %s was not given back: %s", self.spec.name, job_id, error)
        finally:
            self._release(lane)

    async def _pause_queue(self, delay: timedelta) -> None:
        """Let no worker, in whatever language, start a job of this queue for a while.

        BullMQ looks at the limiter only when the queue has a limit, so it gets one that limits nothing.
        """
        k = self.queue.keys
        delay_ms = max(1, round(delay.total_seconds() * 1000))
        logger.warning("%s: a service asks to be left alone; the queue rests for %s", self.spec.name, delay)
        try:
            await self.pipe.execute("HSETNX", k.meta, "max", _NO_LIMIT)
            await self.pipe.execute("HSETNX", k.meta, "duration", 1000)
            await self.pipe.execute("SET", k.limiter, _NO_LIMIT, "PX", delay_ms)
        except StoreError as error:
            logger.warning("%s: the queue could not be paused: %s", self.spec.name, error)

    async def _insist(self, lane: Lane, write: Callable[[], Any]) -> None:
        """Write an outcome, however often Redis goes away, for as long as the lease is ours."""
        held = lane.held
        sent = False
        while True:
            try:
                await write()
            except StoreUnavailable as error:
                sent = sent or isinstance(error, ConnectionLost)
                await self._connection(error)
                if not self.pipe.connected:
                    raise LeaseLost("Redis is away and the worker stops; the job's lease runs out.") from error
            except StoreError as error:
                logger.error("%s: Redis refuses an outcome: %s", self.spec.name, error)
                await asyncio.sleep(_REFUSED_PAUSE_S)
            except (LeaseLost, JobStateConflict):
                if sent:
                    return  # the write whose answer was lost had been carried out
                raise
            else:
                return
            if held is not None and lane.interruption is Interruption.LEASE_LOST:
                raise LeaseLost("The lease ran out before the outcome could be written.")

    async def _finish(
        self,
        lane: Lane,
        record: JobRecord,
        target: str,
        value: bytes,
        *,
        changed: list[str] | None = None,
        fetch_next: bool = True,
    ) -> Claim:
        """Record the end of a job, and claim the next in the same round trip."""
        scripts = self.queue.scripts
        resent = False
        fetch = fetch_next and not self._stopping.is_set()
        options = self._finish_options(lane, record, target)
        changed_fields = packed(changed) if changed is not None else None
        while True:
            command = scripts.finish_command(
                job_id=record.id, target=target, value=value, fetch_next=fetch, options=options, changed=changed_fields
            )
            try:
                reply = await self.pipe.send(command)
                if isinstance(reply, ReplyError):
                    reply = await scripts.mend("moveToFinished", command, reply)
                break
            except StoreUnavailable as error:
                resent = resent or isinstance(error, ConnectionLost)
                await self._connection(error)
                if not self.pipe.connected:
                    logger.error("%s: stopping while Redis is away; job %s will run again", self.spec.name, record.id)
                    self._release(lane)
                    return NOTHING
                fetch = fetch and not self._stopping.is_set()
            except StoreError as error:
                logger.error("%s: Redis refuses the result of job %s: %s", self.spec.name, record.id, error)
                if lane.interruption is Interruption.LEASE_LOST or self._stopping.is_set():
                    self._release(lane)
                    return NOTHING
                await asyncio.sleep(_REFUSED_PAUSE_S)
        self._release(lane)
        if isinstance(reply, int) and reply < 0:
            return await self._not_finished(lane, record, reply, resent=resent)
        return read_claim(reply)

    async def _not_finished(self, lane: Lane, record: JobRecord, code: int, *, resent: bool) -> Claim:
        if resent and code in {Code.MISSING_JOB, Code.MISSING_LOCK, Code.NOT_IN_STATE}:
            # The first sending was carried out, and only its answer was lost; what it claimed is given back.
            return NOTHING if self._stopping.is_set() else await self._claim(lane)
        if code in {Code.FAILED_CHILDREN, Code.PENDING_CHILDREN}:
            self._hold(lane, record.id)
            which = "a child of it failed" if code == Code.FAILED_CHILDREN else "it has children that have not ended"
            return await self._fail(lane, record, Unrecoverable(f"The job could not be completed: {which}."))
        try:
            check_code(code, job_id=record.id, action="finished")
        except (JobNotFound, LeaseLost, JobStateConflict) as error:
            logger.warning("%s: %s Its outcome is dropped.", self.spec.name, error)
        return NOTHING if self._stopping.is_set() else await self._claim(lane)

    def _finish_options(self, lane: Lane, record: JobRecord, target: str) -> bytes:
        """The script's options; kept by lane and by the job's own options, which most jobs of a queue share."""
        key = (target, record.raw.get("opts", ""))
        known = lane.finish_options.get(key)
        if known is None:
            if len(lane.finish_options) > 64:
                lane.finish_options.clear()
            known = lane.finish_options[key] = self._make_finish_options(lane, record, target)
        lean, trimming = known
        if lean is trimming:
            return lean
        now = time.monotonic()
        if now < self._trim_at[target]:
            return lean
        self._trim_at[target] = now + TRIM_EVERY_S
        return trimming

    def _make_finish_options(self, lane: Lane, record: JobRecord, target: str) -> tuple[bytes, bytes]:
        """Options that leave jobs past their age alone, and options that look for them; the same when none has one.

        What the script's header names besides (``limiter``, the failure flags of a child) its body doesn't read: it
        takes them from the queue's ``meta`` and from the job.
        """
        options = record.options
        wanted, default = (
            (options.get("removeOnComplete"), self._settings.keep_completed)
            if target == "completed"
            else (options.get("removeOnFail"), self._settings.keep_failed)
        )
        keep = _keep(wanted, default)
        common = {
            "token": lane.token,
            "lockDuration": self._lease_ms,
            "attempts": record.max_attempts,
            "maxMetricsSize": self._settings.metrics_minutes or "",
            "name": self.name,
        }
        trimming = bulk(packed({**common, "keepJobs": keep}))
        age = keep.get("age")
        if not isinstance(age, int | float) or age < TRIM_AGE_S:
            return trimming, trimming
        return bulk(packed({**common, "keepJobs": {"count": keep.get("count", -1)}})), trimming


class _Interrupted(Exception):
    """A handler was told to stop, and why."""

    def __init__(self, why: Interruption, reason: str) -> None:
        super().__init__(reason)
        self.why = why
        self.reason = reason if why is Interruption.CANCELLED else f"{why.value}: {reason}"
        if why is Interruption.CANCELLED and not reason.startswith(CANCELLED_PREFIX):
            self.reason = f"{CANCELLED_PREFIX}: {reason}"


def _keep(wanted: Any, default: Retention | None) -> dict[str, Any]:
    """BullMQ's ``keepJobs``, from a job's own option, else from the worker's."""
    if wanted is None:
        return dict(default.to_wire()) if default is not None else {"count": -1}
    if wanted is True:
        return {"count": 0}
    if wanted is False:
        return {"count": -1}
    if isinstance(wanted, int):
        return {"count": wanted}
    if isinstance(wanted, dict):
        return {name: value for name, value in wanted.items() if name in {"age", "count", "limit"}} or {"count": -1}
    return {"count": -1}
