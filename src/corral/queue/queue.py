"""One queue, as its producers and managers use it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from corral.errors import JobNotFound, JobStateConflict, PayloadInvalid, StoreError, StoreUnavailable
from corral.queue.definition import JobTypeSpec
from corral.queue.job import JobState
from corral.queue.options import JobOptions
from corral.queue.sharing import Room, forget_users, share_of, too_many
from corral.queue.status import (
    CANCELLED_PREFIX,
    Cancellation,
    JobLogs,
    JobStatus,
    QueuedJob,
    QueueMetrics,
    QueueStats,
    WorkerInfo,
    job_status,
    user_of,
)
from corral.wire.codec import JobRecord, encode_options, fields
from corral.wire.keys import QueueKeys
from corral.wire.pipe import Part, Pipe, Reply, ReplyError, pack, reply_failure
from corral.wire.scripts import QueueScripts, check_code, expect_list, now_ms, script
from corral.wire.shared import FIRST_SLOT, Share

#: One transaction adds at most this many jobs: Redis serves nobody else while it runs.
BULK_LIMIT = 5_000
_STORED_STATE = {JobState.WAITING: "wait"}
_ALL_STATES = (
    JobState.ACTIVE,
    JobState.WAITING,
    JobState.PRIORITIZED,
    JobState.DELAYED,
    JobState.WAITING_CHILDREN,
    JobState.FAILED,
    JobState.COMPLETED,
)
_CLEAN_BATCH = 1_000
#: Producers give the same few options again and again: checking them each time cost a quarter of an add.
_KEPT_OPTIONS = 256
_KEPT_SHARES = 1_024
_RECONNECT_PATIENCE_S = 5.0
#: A request to cancel outlives the longest sensible silence of a worker, and not much more.
_CANCEL_TTL_S = 3600


class Queue:
    """Adds to, asks and manages one queue.

    Args:
        spec: The job type.
        pipe: Shared by all queues of one client.
        prefix: BullMQ's prefix.
    """

    def __init__(self, spec: JobTypeSpec, pipe: Pipe, prefix: str) -> None:
        self.spec = spec
        self.keys = QueueKeys(prefix, spec.name)
        self.scripts = QueueScripts(pipe, self.keys)
        self._pipe = pipe
        self._options: dict[tuple[tuple[str, Any], ...], JobOptions] = {}
        self._packed_options: dict[JobOptions, bytes] = {}
        self._shares: dict[str, Share] = {}

    # --- adding

    def options(self, given: Mapping[str, Any]) -> JobOptions:
        """The job type's defaults, with the producer's values over them; None stands for what is not given.

        Raises:
            PayloadInvalid: An option is unknown or doesn't fit.
        """
        overrides = tuple((name, value) for name, value in given.items() if value is not None)
        if not overrides:
            return self.spec.defaults
        try:
            known = self._options.get(overrides)
        except TypeError:  # what can't be hashed is no option's value: say so
            return options_from(self.spec.defaults, dict(overrides))
        if known is not None:
            return known
        made = options_from(self.spec.defaults, dict(overrides))
        if made.is_plain and len(self._options) < _KEPT_OPTIONS:
            self._options[overrides] = made
        return made

    async def add(self, data: Any, options: JobOptions) -> QueuedJob[Any]:
        """Add one job.

        Raises:
            PayloadInvalid: The payload doesn't fit; nothing reached Redis.
            TooManyJobs: As many of this user's jobs wait as may; nothing was added.
            StoreUnavailable: Redis can't be reached; ``ConnectionLost`` says that the job may have been added.
        """
        name, command = self._add_command(self.spec.encode_payload(data), data, options)
        if not self._pipe.connected:
            await self.ready()
        reply = await self.scripts.answer(name, command)
        if type(reply) is list:  # ["refused", how many wait]
            raise too_many(self.spec, user_of(data) or "")
        check_code(reply, job_id=options.job_id or "(new)", action="added")
        return QueuedJob(str(reply), self.spec.name)

    async def add_many(self, items: Sequence[Any], options: JobOptions) -> list[QueuedJob[Any]]:
        """Add jobs with the same options, all or none of each 5,000 (one transaction).

        Raises:
            PayloadInvalid: A payload doesn't fit; says which. Nothing reached Redis.
            TooManyJobs: One of the users has not the room; nothing of its 5,000 was added.
            StoreUnavailable: Redis can't be reached.
        """
        if options.job_id is not None and len(items) > 1:
            raise PayloadInvalid("job_id: one id can't name several jobs; add them one by one.")
        commands = []
        rooms = self._rooms(items)
        for position, item in enumerate(items):
            room = rooms[position // BULK_LIMIT]
            try:
                commands.append(self._add_command(self.spec.encode_payload(item), item, options, room))
            except PayloadInvalid as error:
                raise PayloadInvalid(f"Job {position} of {len(items)}: {error}") from error
        added: list[QueuedJob[Any]] = []
        for number, room in enumerate(rooms):
            start = number * BULK_LIMIT
            before = room.commands()
            replies = await self.transaction([*before, *commands[start : start + BULK_LIMIT]])
            room.check(replies)
            for reply in replies[len(before) :]:
                check_code(reply, job_id="(new)", action="added")
                added.append(QueuedJob(str(reply), self.spec.name))
        return added

    def _rooms(self, items: Sequence[Any]) -> list[Room]:
        """The room that each transaction of a bulk needs."""
        rooms = []
        for start in range(0, len(items), BULK_LIMIT):
            room = Room(self.keys)
            for item in items[start : start + BULK_LIMIT]:
                room.count(self, item)
            rooms.append(room)
        return rooms

    async def transaction(self, commands: Sequence[tuple[str, bytes]]) -> list[Reply]:
        """Run packed script calls as one MULTI/EXEC.

        Args:
            commands: Pairs of a script's name and its packed call.
        """
        await self.ready()
        for name in {name for name, _ in commands}:
            await self._ensure_loaded(name)
        burst = b"".join((pack("MULTI"), *(command for _, command in commands), pack("EXEC")))
        replies = await self._burst(burst, len(commands) + 2)
        result = replies[-1]
        if isinstance(result, ReplyError):
            first = next((reply for reply in replies if isinstance(reply, ReplyError)), result)
            raise reply_failure(first)
        for reply in expect_list(result):
            if isinstance(reply, ReplyError):
                raise reply_failure(reply)
        return expect_list(result)

    async def ready(self) -> None:
        """Wait a little for a connection that is coming back.

        Raises:
            StoreUnavailable: It did not.
        """
        if self._pipe.connected:
            return
        try:
            async with asyncio.timeout(_RECONNECT_PATIENCE_S):
                await self._pipe.wait_connected()
        except TimeoutError:
            raise StoreUnavailable(
                f"Redis could not be reached for {_RECONNECT_PATIENCE_S:.0f} s; nothing was added or changed."
            ) from None

    def _add_command(
        self, data: bytes, payload: Any, options: JobOptions, room: Room | None = None
    ) -> tuple[str, bytes]:
        timestamp_ms = now_ms()
        delay_ms = options.delay_ms(timestamp_ms)
        share = None if self.spec.per_user is None else self._share(payload, options, delay_ms, room)
        return self.scripts.add_command(
            name=self.spec.name,
            data=data,
            options=self.pack_options(options, delay_ms),
            delay_ms=delay_ms,
            priority=options.priority,
            job_id=options.job_id or "",
            timestamp_ms=timestamp_ms,
            deduplication_id=options.deduplication.id if options.deduplication else None,
            share=share,
        )

    def _share(self, payload: Any, options: JobOptions, delay_ms: int, room: Room | None) -> Share | None:
        """What the adding script has to know; kept by user, as most jobs of one have the same."""
        user = user_of(payload) or ""
        if delay_ms or room:
            return share_of(self.spec, user, options, delay_ms=delay_ms, refusal=room.refusal if room else None)
        share = self._shares.get(user)
        if share is None or options.lifo or options.priority >= FIRST_SLOT:
            if len(self._shares) >= _KEPT_SHARES:
                self._shares.clear()
            share = share_of(self.spec, user, options, delay_ms=0)
            if share is not None:
                self._shares[user] = share
        return share

    def pack_options(self, options: JobOptions, delay_ms: int) -> bytes:
        """Options as the scripts take them; kept for options that many jobs share."""
        if not options.is_plain:
            return encode_options(options.to_wire(delay_ms))
        packed = self._packed_options.get(options)
        if packed is None:
            if len(self._packed_options) > _KEPT_OPTIONS:
                self._packed_options.clear()
            packed = self._packed_options[options] = encode_options(options.to_wire(0))
        return packed

    # --- asking

    async def status(self, job_id: str) -> JobStatus:
        """One job, as it is stored now.

        Raises:
            JobNotFound: There is none of this id.
        """
        k = self.keys
        # The lists of waiting jobs are not looked through: with a million in them that takes Redis milliseconds, for
        # everybody. A job that is nowhere else waits. The script gets a key that never exists in their place.
        nothing = k.base
        record, state = await self._together(
            ("HGETALL", k.job(job_id)),
            self._call(
                "getStateV2",
                (k.completed, k.failed, k.delayed, k.active, nothing, nothing, k.waiting_children, k.prioritized),
                (job_id, k.job(job_id)),
            ),
        )
        raw = fields(record)
        if not raw:
            raise self._not_found(job_id)
        if state == "unknown":
            state = JobState.WAITING
        return job_status(self.spec, JobRecord(job_id, raw), JobState(state))

    async def list_jobs(
        self, states: Iterable[JobState] | None = None, *, offset: int = 0, limit: int = 50, newest_first: bool = True
    ) -> list[JobStatus]:
        """Jobs in the given states, state after state.

        Args:
            states: None: all, active ones first.
            offset: How many to pass over.
            limit: How many to return at most, up to 1,000.
            newest_first: Within a state.
        """
        if not 0 <= limit <= 1_000 or offset < 0:
            raise PayloadInvalid(f"limit: expected 0 to 1,000 and an offset from 0, got {limit} and {offset}.")
        wanted = tuple(states) if states is not None else _ALL_STATES
        names = [_STORED_STATE.get(state, str(state)) for state in wanted]
        counts = expect_list(await self.scripts.run("getCounts", (self.keys.base,), names))
        found: list[JobStatus] = []
        for state, name, count in zip(wanted, names, counts, strict=True):
            if offset >= count:
                offset -= count
                continue
            room = limit - len(found)
            if room <= 0:
                break
            reply = await self.scripts.run(
                "getJobs", (self.keys.base,), (offset, offset + room - 1, "0" if newest_first else "1", 5, name)
            )
            entries = expect_list(expect_list(reply)[0])
            found += [job_status(self.spec, JobRecord(str(i), fields(flat)), state) for i, flat in entries]
            offset = 0
        return found

    async def logs(self, job_id: str, *, offset: int = 0, limit: int = 1_000) -> JobLogs:
        """A part of a job's log, oldest first.

        Raises:
            JobNotFound: There is no such job.
        """
        k = self.keys
        exists, lines, total = await self._together(
            ("EXISTS", k.job(job_id)),
            ("LRANGE", k.logs(job_id), offset, offset + max(0, limit) - 1),
            ("LLEN", k.logs(job_id)),
        )
        if not exists:
            raise self._not_found(job_id)
        return JobLogs(tuple(lines) if limit > 0 else (), total)

    async def stats(self) -> QueueStats:
        """How many jobs the queue holds, by state, in one round trip."""
        k = self.keys
        names = ("wait", "paused", "active", "completed", "failed", "delayed", "prioritized", "waiting-children")
        counts, (paused, concurrency) = await self._together(
            self._call("getCounts", (k.base,), names), ("HMGET", k.meta, "paused", "concurrency")
        )
        by_state = dict(zip(names, (int(count) for count in counts), strict=True))
        return QueueStats(
            job_type=self.spec.name,
            waiting=by_state["wait"] + by_state["paused"] + by_state["prioritized"],
            active=by_state["active"],
            completed=by_state["completed"],
            failed=by_state["failed"],
            delayed=by_state["delayed"],
            prioritized=by_state["prioritized"],
            waiting_children=by_state["waiting-children"],
            paused=paused is not None,
            global_concurrency=int(concurrency) if concurrency else None,
        )

    async def metrics(self, target: Literal["completed", "failed"], *, points: int = 60) -> QueueMetrics:
        """Ended jobs per minute."""
        key = self.keys.metrics(target)
        reply = expect_list(await self.scripts.run("getMetrics", (key, f"{key}:data"), (0, points - 1)))
        head, data, _ = reply
        return QueueMetrics(int(head[0] or 0), tuple(int(point) for point in data))

    async def workers(self) -> list[WorkerInfo]:
        """Workers of this queue that are connected now, in whatever language (by their connections' names)."""
        base = f"{self.keys.prefix}:{base64.b64encode(self.spec.name.encode()).decode()}"
        text, active = await self._together(("CLIENT", "LIST"), ("LRANGE", self.keys.active, 0, -1))
        claimed: dict[str, list[str]] = {}
        if active:
            owners = await self._together(*(("HGET", self.keys.job(str(job_id)), "pb") for job_id in active))
            for job_id, owner in zip(active, owners, strict=True):
                claimed.setdefault(str(owner), []).append(str(job_id))
        found = []
        for line in str(text).splitlines():
            client = dict(part.split("=", 1) for part in line.split(" ") if "=" in part)
            name = client.get("name", "")
            if name != base and not name.startswith(f"{base}:w:"):
                continue
            worker = name[len(base) + 3 :]
            found.append(
                WorkerInfo(
                    name=worker,
                    job_type=self.spec.name,
                    address=client.get("addr", ""),
                    age_s=int(client.get("age", 0)),
                    idle_s=int(client.get("idle", 0)),
                    active=tuple(claimed.get(worker, ())),
                )
            )
        return found

    # --- managing one job

    async def cancel(self, job_id: str, *, reason: str = "", by: str | None = None) -> Cancellation:
        """Remove a job that has not started, or stop an active one, on whichever machine it runs.

        Raises:
            JobNotFound: There is no such job.
            JobStateConflict: It has ended, or runs on a worker that can't be told (not one of Corral's).
        """
        k = self.keys
        status = await self.status(job_id)
        if status.state in {JobState.COMPLETED, JobState.FAILED}:
            raise JobStateConflict(f"Job {job_id!r} can't be cancelled: it has {status.state.value} already.")
        if status.state is not JobState.ACTIVE:
            reply = await self.scripts.run("removeJob", (k.job(job_id), k.repeat), (job_id, "1", k.base))
            if reply == 1:
                return Cancellation.REMOVED
            if reply != 0:
                check_code(reply, job_id=job_id, action="cancelled")
        who = f" by {by}" if by else ""
        text = f"{CANCELLED_PREFIX}{who}" + (f": {reason}" if reason else "")
        message = json.dumps({"queue": k.qualified, "id": job_id, "reason": text})
        # The key is for a worker whose subscription is broken just now: it looks there when it is back.
        _, listeners = await self._together(
            ("SET", k.cancelled(job_id), text, "EX", _CANCEL_TTL_S),
            ("PUBLISH", cancel_channel(k.prefix), message),
        )
        if not listeners and not (status.worker or "").startswith(WORKER_NAME_PREFIX):
            await self._pipe.execute("DEL", k.cancelled(job_id))
            raise JobStateConflict(
                f"Job {job_id!r} runs on a worker that can't be told to stop ({status.worker or 'unnamed'})."
            )
        return Cancellation.STOPPING

    async def retry(self, job_id: str) -> None:
        """Put an ended job back into its queue, its attempts counted anew.

        Raises:
            JobNotFound: There is no such job.
            JobStateConflict: It has not ended.
        """
        status = await self.status(job_id)
        if status.state not in {JobState.COMPLETED, JobState.FAILED}:
            raise JobStateConflict(f"Job {job_id!r} can't be retried: it is {status.state.value}, not ended.")
        reply = await self.scripts.run(*self._reprocess(job_id, status.state))
        check_code(reply, job_id=job_id, action="retried")

    def _reprocess(self, job_id: str, state: JobState) -> tuple[str, tuple[str, ...], tuple[Part, ...]]:
        k = self.keys
        ended = k.failed if state is JobState.FAILED else k.completed
        return (
            "reprocessJob",
            (k.job(job_id), k.events, ended, k.wait, k.meta, k.active, k.marker, k.prioritized, k.pc),
            (job_id, "LPUSH", "failedReason" if state is JobState.FAILED else "returnvalue", str(state), "1", "1"),
        )

    async def promote(self, job_id: str) -> None:
        """Let a delayed job start now.

        Raises:
            JobNotFound: There is no such job.
            JobStateConflict: It is not delayed.
        """
        k = self.keys
        keys = (k.delayed, k.wait, k.paused, k.meta, k.prioritized, k.active, k.pc, k.events, k.marker)
        reply = await self.scripts.run("promote", keys, (k.base, job_id))
        if isinstance(reply, int) and reply < 0 and not await self._pipe.execute("EXISTS", k.job(job_id)):
            raise self._not_found(job_id)
        check_code(reply, job_id=job_id, action="promoted")

    async def remove(self, job_id: str, *, children: bool = True) -> None:
        """Remove a job that is not active, with a flow's children.

        Raises:
            JobNotFound: There is no such job.
            JobStateConflict: It or a child of it is active, or a schedule owns it.
        """
        k = self.keys
        if not await self._pipe.execute("EXISTS", k.job(job_id)):
            raise self._not_found(job_id)
        reply = await self.scripts.run(
            "removeJob", (k.job(job_id), k.repeat), (job_id, "1" if children else "0", k.base)
        )
        if reply == 0:
            raise JobStateConflict(f"Job {job_id!r} can't be removed: a worker is running it. Cancel it first.")
        if reply == -8:
            raise JobStateConflict(f"Job {job_id!r} belongs to a schedule: remove the schedule instead.")

    # --- managing the queue

    async def pause(self) -> None:
        """Let no worker start a job of this queue; active ones go on."""
        await self._set_paused(True)

    async def resume(self) -> None:
        """Undo ``pause``."""
        await self._set_paused(False)

    async def _set_paused(self, paused: bool) -> None:  # noqa: FBT001 - two verbs share it
        k = self.keys
        source, target = (k.wait, k.paused) if paused else (k.paused, k.wait)
        keys = (source, target, k.meta, k.prioritized, k.events, k.delayed, k.marker)
        # Old versions of BullMQ keep paused jobs in a list of their own, which is emptied in portions.
        while await self.scripts.run("pause", keys, ("paused" if paused else "resumed",)):
            pass

    async def clean(
        self, grace: timedelta, *, states: Iterable[JobState] = (JobState.COMPLETED, JobState.FAILED), limit: int = 0
    ) -> list[str]:
        """Remove jobs that have been in one of ``states`` for longer than ``grace``.

        Args:
            limit: At most this many; 0 means all.

        Returns:
            The ids that were removed.
        """
        removed: list[str] = []
        cutoff = now_ms() - round(grace.total_seconds() * 1000)
        for state in states:
            if state is JobState.WAITING_CHILDREN or state is JobState.ACTIVE:
                raise PayloadInvalid(f"states: {state.value} jobs can't be cleaned; cancel or remove them.")
            name = _STORED_STATE.get(state, str(state))
            while True:
                batch = min(_CLEAN_BATCH, limit - len(removed)) if limit else _CLEAN_BATCH
                if batch <= 0:
                    return removed
                reply = await self.scripts.run(
                    "cleanJobsInSet",
                    (self.keys.base + name, self.keys.events, self.keys.repeat),
                    (self.keys.base, cutoff, batch, name),
                )
                ids = [str(job_id) for job_id in expect_list(reply)]
                removed += ids
                if len(ids) < batch:
                    break
        return removed

    async def drain(self, *, delayed: bool = False) -> None:
        """Remove all jobs that wait, and the delayed ones too when asked."""
        k = self.keys
        keys = (k.wait, k.paused, k.delayed, k.prioritized, k.repeat)
        await self.scripts.run("drain", keys, (k.base, "1" if delayed else "0"))

    async def obliterate(self, *, force: bool = False) -> None:
        """Pause the queue and remove it with all its jobs.

        Raises:
            JobStateConflict: Jobs are active, and ``force`` is not set.
        """
        await self.pause()
        while True:
            reply = await self.scripts.run(
                "obliterate", (self.keys.meta, self.keys.base), (1_000, "force" if force else "")
            )
            if reply == -2:
                await self.resume()
                raise JobStateConflict(
                    f"Queue {self.spec.name!r} can't be removed: jobs are active. Wait for them, or force it."
                )
            if reply == -1:
                raise JobStateConflict(f"Queue {self.spec.name!r} was resumed while it was being removed.")
            if not reply:
                if self.spec.per_user is not None:
                    await forget_users(self.scripts, self.keys)
                return

    async def retry_many(
        self, *, state: Literal[JobState.FAILED, JobState.COMPLETED] = JobState.FAILED, limit: int = 1_000
    ) -> int:
        """Put ended jobs back, oldest first, each with its own priority.

        Returns:
            How many were put back.
        """
        ended = self.keys.failed if state is JobState.FAILED else self.keys.completed
        done = 0
        while done < limit:
            batch = min(_CLEAN_BATCH, limit - done)
            ids = expect_list(await self._pipe.execute("ZRANGE", ended, 0, batch - 1))
            if not ids:
                break
            await self._ensure_loaded("reprocessJob")
            replies = await self._together(*(self._call(*self._reprocess(str(job_id), state)) for job_id in ids))
            moved = sum(1 for reply in replies if reply == 1)
            done += moved
            if not moved:
                break
        return done

    async def promote_many(self) -> int:
        """Let all delayed jobs start now.

        Returns:
            How many there were.
        """
        k = self.keys
        ids = expect_list(await self._pipe.execute("ZRANGE", k.delayed, 0, -1))
        keys = (k.delayed, k.wait, k.paused, k.meta, k.prioritized, k.active, k.pc, k.events, k.marker)
        for start in range(0, len(ids), _CLEAN_BATCH):
            await self._ensure_loaded("promote")
            await self._together(
                *(self._call("promote", keys, (k.base, str(i))) for i in ids[start : start + _CLEAN_BATCH])
            )
        return len(ids)

    async def set_rate_limit(self, max_jobs: int | None, duration: timedelta | None = None) -> None:
        """Bound the starts of jobs over all workers, in whatever language; None lifts the bound."""
        if max_jobs is None:
            await self._pipe.execute("HDEL", self.keys.meta, "max", "duration")
            return
        window_ms = round((duration or timedelta(seconds=1)).total_seconds() * 1000)
        await self._pipe.execute("HSET", self.keys.meta, "max", max_jobs, "duration", window_ms)

    async def set_global_concurrency(self, limit: int | None) -> None:
        """Bound the active jobs over all workers, in whatever language; None lifts the bound."""
        if limit is None:
            await self._pipe.execute("HDEL", self.keys.meta, "concurrency")
        else:
            await self._pipe.execute("HSET", self.keys.meta, "concurrency", limit)
        await self._pipe.execute("ZADD", self.keys.marker, 0, "0")

    # --- round trips

    def _call(self, name: str, keys: Sequence[str], arguments: Sequence[Part]) -> tuple[Part, ...]:
        return ("EVALSHA", script(name).sha, len(keys), *keys, *arguments)

    async def _together(self, *commands: tuple[Part, ...]) -> list[Reply]:
        """Several commands in one round trip."""
        await self.ready()
        replies = await self._burst(b"".join(pack(*command) for command in commands), len(commands))
        for position, reply in enumerate(replies):
            if isinstance(reply, ReplyError):
                if not str(reply).startswith("NOSCRIPT"):
                    raise reply_failure(reply)
                sha = commands[position][1]
                await self._load_by_sha(str(sha))
                replies[position] = await self._pipe.execute(*commands[position])
        return replies

    async def _burst(self, packed: bytes, count: int) -> list[Reply]:
        return await asyncio.gather(*self._pipe.send_many(packed, count))

    async def _ensure_loaded(self, name: str) -> None:
        """Load a script that a transaction or burst needs and that may be unknown to this Redis."""
        exists = await self._pipe.execute("SCRIPT", "EXISTS", script(name).sha)
        if not exists[0]:
            await self._pipe.execute("SCRIPT", "LOAD", script(name).source)

    async def _load_by_sha(self, sha: str) -> None:
        for name in ("getStateV2", "getCounts", "reprocessJob", "promote"):
            if script(name).sha == sha:
                await self._pipe.execute("SCRIPT", "LOAD", script(name).source)
                return
        raise StoreError("Redis does not know a script that was not among those that are sent in one round trip.")

    def _not_found(self, job_id: str) -> JobNotFound:
        return JobNotFound(
            f"Queue {self.spec.name!r} has no job {job_id!r}: it never had one, or it was removed or kept no longer."
        )


#: Names of Corral's workers begin so; only these can be told to cancel.
WORKER_NAME_PREFIX = "corral-"


def cancel_channel(prefix: str) -> str:
    """The channel on which Corral's workers hear of cancelled jobs."""
    return f"{prefix}:corral:cancel"


def options_from(defaults: JobOptions, given: Mapping[str, Any]) -> JobOptions:
    """A job type's defaults, with the producer's values over them.

    Raises:
        PayloadInvalid: An option is unknown or doesn't fit.
    """
    overrides = {name: value for name, value in given.items() if value is not None}
    if not overrides:
        return defaults
    try:
        return defaults.changed(**overrides)
    except TypeError as error:
        raise PayloadInvalid(f"Unknown job option: {error}") from error
