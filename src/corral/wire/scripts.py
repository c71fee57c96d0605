"""BullMQ's Lua scripts, loaded from the ``bullmq`` distribution at run time, each behind a typed method.

A method says which script it runs, its KEYS and ARGV in order, and what it replies; the script's own header is the
source. ``tests/unit/wire/test_scripts_pinned.py`` pins names, key counts and arguments, so that an upgrade of
``bullmq`` that changes one fails there and not in production.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import Any

from corral.errors import ConfigurationError, JobNotFound, JobStateConflict, LeaseLost, StoreError
from corral.wire import shared
from corral.wire.codec import JobRecord, encode_options, fields, packed
from corral.wire.keys import QueueKeys
from corral.wire.pipe import Part, Pipe, Reply, ReplyError, pack, reply_failure
from corral.wire.shared import Refusal, Share


@dataclass(frozen=True, slots=True)
class Script:
    """One Lua script."""

    name: str
    key_count: int
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """Find one of BullMQ's scripts by its name, for example ``"moveToActive"``, or one of ours (``users:…``).

    Raises:
        ConfigurationError: The ``bullmq`` distribution is missing or has no such script.
    """
    if name.startswith(shared.OURS):
        key_count, source = shared.source(name, lambda theirs: (script(theirs).key_count, script(theirs).source))
        return Script(name, key_count, source, _sha(source))
    # find_spec doesn't run the package: importing it costs a third of a second that nobody here needs.
    spec = importlib.util.find_spec("bullmq")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("The `bullmq` distribution, whose scripts Corral runs, is not installed.")
    folder = Path(next(iter(spec.submodule_search_locations))) / "commands"
    for path in folder.glob(f"{name}-*.lua"):
        match = re.fullmatch(rf"{re.escape(name)}-(\d+)\.lua", path.name)
        if match:
            source = path.read_text(encoding="utf-8")
            return Script(name, int(match[1]), source, _sha(source))
    raise ConfigurationError(f"This version of `bullmq` has no script {name!r}; install the version that Corral names.")


def _sha(source: str) -> str:
    return hashlib.sha1(source.encode()).hexdigest()  # noqa: S324 - Redis names scripts by SHA-1


#: Loaded on every connection of a worker or producer, so that a restarted Redis knows them at once.
HOT = (
    "addStandardJob",
    "addPrioritizedJob",
    "addDelayedJob",
    "moveToActive",
    "moveToFinished",
    "moveToDelayed",
    "retryJob",
    "updateProgress",
    "addLog",
    "extendLocks",
    "moveStalledJobsToWait",
)


@cache
def load_commands() -> tuple[bytes, ...]:
    """``SCRIPT LOAD`` of every hot script, packed."""
    return tuple(pack("SCRIPT", "LOAD", script(name).source) for name in HOT)


class Code(IntEnum):
    """What a script's negative reply means (source: ``ErrorCode`` of the ``bullmq`` package)."""

    MISSING_JOB = -1
    MISSING_LOCK = -2
    NOT_IN_STATE = -3
    PENDING_CHILDREN = -4
    MISSING_PARENT = -5
    LOCK_MISMATCH = -6
    PARENT_CANNOT_BE_REPLACED = -7
    JOB_LOCKED = -8
    FAILED_CHILDREN = -9
    SCHEDULER_JOB_ID_COLLISION = -10
    SCHEDULER_SLOTS_BUSY = -11


def check_code(reply: Reply, *, job_id: str, action: str) -> None:
    """Raise what a negative reply means.

    Raises:
        JobNotFound: The job is gone.
        LeaseLost: Its lock is gone or another's.
        JobStateConflict: It is in another state than the action needs.
    """
    if not isinstance(reply, int) or reply >= 0:
        return
    if reply == Code.MISSING_JOB:
        raise JobNotFound(f"There is no job {job_id!r}: it was removed, or never was.")
    if reply in {Code.MISSING_LOCK, Code.LOCK_MISMATCH}:
        raise LeaseLost(f"The lease on job {job_id!r} is lost: it could not be {action}.")
    if reply == Code.NOT_IN_STATE:
        raise JobStateConflict(f"Job {job_id!r} could not be {action}: it is in another state by now.")
    if reply == Code.PENDING_CHILDREN:
        raise JobStateConflict(f"Job {job_id!r} could not be {action}: it has children that have not ended.")
    if reply == Code.FAILED_CHILDREN:
        raise JobStateConflict(f"Job {job_id!r} could not be {action}: a child of it failed.")
    if reply == Code.MISSING_PARENT:
        raise JobNotFound(f"Job {job_id!r} could not be {action}: its parent is gone.")
    if reply == Code.PARENT_CANNOT_BE_REPLACED:
        raise JobStateConflict(f"Job {job_id!r} could not be {action}: it already has another parent.")
    if reply == Code.JOB_LOCKED:
        raise JobStateConflict(f"Job {job_id!r} could not be {action}: a worker is running it.")
    raise JobStateConflict(f"Job {job_id!r} could not be {action}: BullMQ's code {reply}.")


@dataclass(slots=True)
class Claim:
    """What a script that fetches the next job says."""

    #: The job that is now ours; None when there is none to be had.
    record: JobRecord | None = None
    #: Milliseconds until the queue's rate limit lets the next job start; 0 when it doesn't hold it back.
    limited_ms: int = 0
    #: When the next delayed job is due, in ms since 1970; 0 when there is none.
    next_delayed_ms: int = 0


NOTHING = Claim()


def read_claim(reply: Reply) -> Claim:
    """Read ``[job | 0, id, rate limit ms, next delayed ms]``; anything else says that there is no job."""
    if not isinstance(reply, list) or len(reply) < 4:
        return NOTHING
    job, job_id, limited, delayed = reply[:4]
    if job:
        return Claim(JobRecord(job_id, fields(job)))
    return Claim(None, int(limited or 0), int(float(delayed or 0)))


def now_ms() -> int:
    """Milliseconds since 1970, by this machine's clock, as BullMQ's clients send it."""
    return time.time_ns() // 1_000_000


def bulk(value: bytes) -> bytes:
    """Encode one RESP bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def _head(name: str, keys: Sequence[str], arguments: int) -> bytes:
    """The part of a script's call that is the same for every job: command, script, and its first keys."""
    called = script(name)
    count = 3 + called.key_count + arguments
    start = b"*%d\r\n" % count + bulk(b"EVALSHA") + bulk(called.sha.encode()) + bulk(b"%d" % called.key_count)
    return start + b"".join(bulk(key.encode()) for key in keys)


#: BullMQ's three, and those that ``users_add.lua`` names.
_SHARED_ARGUMENTS, _SHARED_EXTRAS = 7, 6
_KEPT_HEADS = 1_024
_FINISH_FIELDS = {"completed": bulk(b"returnvalue"), "failed": bulk(b"failedReason")}


class QueueScripts:
    """The scripts of one queue, over one pipe."""

    def __init__(self, pipe: Pipe, keys: QueueKeys) -> None:
        self.pipe = pipe
        self.keys = keys
        k = keys
        self._base = bulk(k.base.encode())
        self._job_base = k.base.encode()
        self._fetch_keys = (
            k.wait, k.active, k.prioritized, k.events, k.stalled, k.limiter, k.delayed, k.paused, k.meta, k.pc,
        )  # fmt: skip
        self._active_head = _head("moveToActive", (*self._fetch_keys, k.marker), 3) + self._base
        self._finish_heads = {
            (target, count): _head("moveToFinished", (*self._fetch_keys, getattr(k, target)), count)
            for target in ("completed", "failed")
            for count in (8, 9)
        }
        self._finish_tails = {
            target: bulk(k.metrics(target).encode()) + bulk(k.marker.encode()) for target in ("completed", "failed")
        }
        self._finish_ends = {
            (target, fetch): bulk(target.encode()) + bulk(b"1" if fetch else b"") + self._base
            for target in ("completed", "failed")
            for fetch in (True, False)
        }
        add_keys: dict[str, tuple[str, ...]] = {
            "addStandardJob": (k.wait, k.paused, k.meta, k.id, k.completed, k.delayed, k.active, k.events, k.marker),
            "addPrioritizedJob": (
                k.marker, k.meta, k.id, k.prioritized, k.delayed, k.completed, k.active, k.events, k.pc,
            ),
            "addDelayedJob": (k.marker, k.meta, k.id, k.delayed, k.completed, k.events),
            "addParentJob": (k.meta, k.id, k.delayed, k.waiting_children, k.completed, k.events),
        }  # fmt: skip
        self._plain_firsts: dict[str, bytes] = {}
        self._add_keys = add_keys
        self._add_heads = {name: _head(name, names, 3) for name, names in add_keys.items()}
        self._shared_heads: dict[tuple[str, bool], bytes] = {}
        self._share_heads: dict[tuple[str, int], bytes] = {}

    async def run(self, name: str, keys: Sequence[str], arguments: Sequence[Part]) -> Reply:
        """Run any script.

        Raises:
            StoreUnavailable: No connection, or it broke; the script may or may not have run.
            StoreError: The script failed.
        """
        called = script(name)
        if len(keys) != called.key_count:
            raise ConfigurationError(f"{name} takes {called.key_count} keys, got {len(keys)}.")
        command = pack("EVALSHA", called.sha, len(keys), *keys, *arguments)
        return await self.answer(name, command)

    async def answer(self, name: str, command: bytes) -> Reply:
        """Send a packed EVALSHA of the script ``name`` and return its reply, loading the script when need be."""
        reply = await self.pipe.send(command)
        return await self.mend(name, command, reply) if isinstance(reply, ReplyError) else reply

    async def mend(self, name: str, command: bytes, reply: ReplyError) -> Reply:
        """Load a script that Redis does not know and send its command again, or raise what the error means.

        Raises:
            StoreUnavailable: Redis can't carry it out now.
            StoreError: The script failed.
        """
        if str(reply).startswith("NOSCRIPT"):
            # A SCRIPT FLUSH, or a script that is not among the hot ones.
            await self.pipe.execute("SCRIPT", "LOAD", script(name).source)
            again = await self.pipe.send(command)
            if not isinstance(again, ReplyError):
                return again
            reply = again
        if str(reply).startswith(("READONLY", "MOVED")):
            self.pipe.drop()  # the master moved: ask again where it is
        raise reply_failure(reply)

    # --- adding

    def add_command(
        self,
        *,
        name: str,
        data: bytes,
        options: bytes,
        delay_ms: int,
        priority: int,
        job_id: str,
        timestamp_ms: int,
        parent: Mapping[str, Any] | None = None,
        deduplication_id: str | None = None,
        is_parent: bool = False,
        share: Share | None = None,
    ) -> tuple[str, bytes]:
        """Pack one added job.

        Args:
            data: JSON.
            options: From ``encode_options``.
            job_id: ``""`` lets Redis count.
            parent: ``{"id": ..., "queueKey": "prefix:queue"}``, with BullMQ's failure flags.
            is_parent: Whether it has children, so that it waits for them.
            share: In a queue that its users share: whose job it is, and what they may have.

        Returns:
            The script's name and its command.

        Wire:
            addStandardJob, addPrioritizedJob, addDelayedJob or addParentJob; ARGV msgpack of [prefix, id, name,
            timestamp, parent's key, its dependencies' key, parent, scheduler key, deduplication key], data, options;
            replies the id, or -5 and -7. With a share, ``users_add.lua`` round it.
        """
        if is_parent:
            called = "addParentJob"
        elif delay_ms:
            called = "addDelayedJob"
        elif priority or (share is not None and share.kind == "now"):
            called = "addPrioritizedJob"
        else:
            called = "addStandardJob"
        if parent is None and deduplication_id is None and not job_id:
            first = self._plain_first(name, timestamp_ms)
        else:
            parent_key = f"{parent['queueKey']}:{parent['id']}" if parent else None
            first = packed(
                [
                    self.keys.base,
                    job_id,
                    name,
                    timestamp_ms,
                    parent_key,
                    f"{parent_key}:dependencies" if parent_key else None,
                    parent,
                    None,
                    self.keys.deduplication(deduplication_id) if deduplication_id else None,
                ]
            )
        head = self._add_heads[called]
        named = bool(job_id) or deduplication_id is not None
        if share is not None:
            called = shared.OURS + called
            brief = share.brief and not named
            head = self._shared_head(called, brief=brief)
        command = b"%b$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            *(head, len(first), first),
            *(len(data), data, len(options), options),
        )
        if share is None:
            return called, command
        return called, command + self._share_arguments(share, priority, timestamp_ms, brief=brief, named=named)

    def _shared_head(self, called: str, *, brief: bool) -> bytes:
        head = self._shared_heads.get((called, brief))
        if head is None:
            keys = self._add_keys[called.removeprefix(shared.OURS)]
            count = _SHARED_ARGUMENTS if brief else _SHARED_ARGUMENTS + _SHARED_EXTRAS
            head = self._shared_heads[called, brief] = _head(called, keys, count)
        return head

    def _share_arguments(self, share: Share, priority: int, now: int, *, brief: bool, named: bool) -> bytes:
        kept = self._share_heads.get((share.user, priority))
        if kept is None:
            if len(self._share_heads) >= _KEPT_HEADS:
                self._share_heads.clear()
            user = share.user.encode("utf-8", "surrogateescape")
            kept = self._base + bulk(user) + bulk(b"%d" % priority)
            self._share_heads[share.user, priority] = kept
        own = b"%b$13\r\n%d\r\n" % (kept, now)
        if brief:
            return own
        refusal = share.refusal or Refusal("", "")
        extras = (share.kind, str(share.max_waiting), str(share.max_active), "1" if named else "0")
        return own + b"".join(bulk(part.encode()) for part in (*extras, refusal.key, refusal.token))

    def _plain_first(self, name: str, timestamp_ms: int) -> bytes:
        """The first argument of a job that has neither id nor parent nor deduplication: only the time changes."""
        head = self._plain_firsts.get(name)
        if head is None:
            if len(self._plain_firsts) > 64:
                self._plain_firsts.clear()
            whole = packed([self.keys.base, "", name, 0, *[None] * 5])
            head = self._plain_firsts[name] = whole[:-6]
        # msgpack's uint 64, then five nils (source: the msgpack specification).
        return b"%b\xcf%b\xc0\xc0\xc0\xc0\xc0" % (head, timestamp_ms.to_bytes(8, "big"))

    # --- the worker's round trips

    def fetch_command(self, options: bytes) -> bytes:
        """Pack a claim of the next job.

        Args:
            options: msgpack of token, lockDuration (ms), limiter, name.

        Wire:
            moveToActive; ARGV prefix, now, options; replies as ``read_claim`` takes it.
        """
        return b"".join((self._active_head, bulk(b"%d" % now_ms()), bulk(options)))

    def finish_command(
        self,
        *,
        job_id: str,
        target: str,
        value: bytes,
        fetch_next: bool,
        options: bytes,
        changed: bytes | None = None,
    ) -> bytes:
        """Pack a job's end, and the claim of the next in the same round trip.

        Args:
            target: ``completed`` or ``failed``.
            value: The result as JSON, or the failure's reason as text.
            options: As ``bulk`` of msgpack: token, keepJobs, lockDuration, attempts, maxMetricsSize, name.
            changed: msgpack of a flat list of the hash's fields to set.

        Wire:
            moveToFinished; ARGV id, now, field, value, target, "1" to fetch, prefix, options, changed fields; replies
            a claim, 0, or a negative ``Code``.
        """
        raw_id = job_id.encode("utf-8", "surrogateescape")
        size = len(raw_id)
        # One formatting of bytes costs half of what its parts cost apart, and every job passes here. A time in ms has
        # 13 digits until the year 2286.
        command = b"%b$%d\r\n%b%b\r\n%b$%d\r\n%b\r\n$13\r\n%d\r\n%b$%d\r\n%b\r\n%b%b" % (
            self._finish_heads[target, 8 if changed is None else 9],
            *(len(self._job_base) + size, self._job_base, raw_id),
            *(self._finish_tails[target], size, raw_id),
            *(now_ms(), _FINISH_FIELDS[target], len(value), value),
            *(self._finish_ends[target, fetch_next], options),
        )
        return command if changed is None else command + bulk(changed)

    async def delay_again(
        self, job_id: str, *, token: str, delay_ms: int, changed: Sequence[str], skip_attempt: bool = False
    ) -> None:
        """Put an active job back to be tried after a delay.

        Raises:
            JobNotFound: It is gone.
            LeaseLost: It is no longer ours.

        Wire:
            moveToDelayed; ARGV prefix, now, id, token, delay, "1" to not count the attempt, changed fields, "0" to not
            fetch; replies 0 or a ``Code``.
        """
        k = self.keys
        keys = (
            k.marker, k.active, k.prioritized, k.delayed, k.job(job_id), k.events, k.meta, k.stalled, k.wait,
            k.limiter, k.pc,
        )  # fmt: skip
        arguments = (
            k.base, str(now_ms()), job_id, token, delay_ms, "1" if skip_attempt else "0",
            packed(list(changed)) if changed else "", "0",
        )  # fmt: skip
        check_code(await self.run("moveToDelayed", keys, arguments), job_id=job_id, action="put back for a retry")

    async def retry_now(self, job_id: str, *, token: str, lifo: bool, changed: Sequence[str]) -> None:
        """Put an active job back to be tried at once.

        Raises:
            JobNotFound: It is gone.
            LeaseLost: It is no longer ours.

        Wire:
            retryJob; ARGV prefix, now, push command, id, token, changed fields; replies 0 or a ``Code``.
        """
        k = self.keys
        keys = (
            k.active, k.wait, k.paused, k.job(job_id), k.meta, k.events, k.delayed, k.prioritized, k.pc, k.marker,
            k.stalled,
        )  # fmt: skip
        arguments: list[Part] = [k.base, now_ms(), "RPUSH" if lifo else "LPUSH", job_id, token]
        if changed:
            arguments.append(packed(list(changed)))
        check_code(await self.run("retryJob", keys, arguments), job_id=job_id, action="put back for a retry")

    async def give_back(self, job_id: str, *, token: str) -> None:
        """Put an active job back at the head of its queue; the attempt is not counted.

        Raises:
            JobNotFound: It is gone.
            LeaseLost: It is no longer ours.

        Wire:
            moveJobFromActiveToWait; ARGV id, token, job key; replies the rate limit's ms or a ``Code``.
        """
        k = self.keys
        keys = (k.active, k.wait, k.stalled, k.paused, k.meta, k.limiter, k.prioritized, k.marker, k.events)
        reply = await self.run("moveJobFromActiveToWait", keys, (job_id, token, k.job(job_id)))
        check_code(reply, job_id=job_id, action="given back")

    async def sweep_stalled(self, *, max_crashes: int, interval_ms: int) -> list[str]:
        """Give jobs whose lease ran out to other workers.

        Returns:
            The jobs that were moved. One that crashed more often than ``max_crashes`` is moved too, and fails when
            it is claimed.

        Wire:
            moveStalledJobsToWait; ARGV max stalled count, prefix, now, interval; replies ids.
        """
        k = self.keys
        keys = (k.stalled, k.wait, k.active, k.stalled_check, k.meta, k.paused, k.marker, k.events, k.repeat)
        reply = await self.run("moveStalledJobsToWait", keys, (max_crashes, k.base, now_ms(), interval_ms))
        return [str(job_id) for job_id in reply or ()]

    async def progress(self, job_id: str, value: bytes) -> None:
        """Record a job's progress, as JSON.

        Raises:
            JobNotFound: It is gone.

        Wire:
            updateProgress; ARGV id, progress; replies 0 or -1.
        """
        k = self.keys
        reply = await self.run("updateProgress", (k.job(job_id), k.events, k.meta), (job_id, value))
        check_code(reply, job_id=job_id, action="updated")

    async def log(self, job_id: str, lines: Sequence[str], *, keep: int | None) -> None:
        """Append lines to a job's log, in one round trip.

        Raises:
            JobNotFound: It is gone.

        Wire:
            addLog for each line; ARGV id, line, how many to keep or ""; replies the count or -1.
        """
        k = self.keys
        called = script("addLog")
        futures = [
            self.pipe.send(
                pack(
                    "EVALSHA", called.sha, 2, k.job(job_id), k.logs(job_id), job_id, line, "" if keep is None else keep
                )
            )
            for line in lines
        ]
        for future in futures:
            reply = await future
            if isinstance(reply, ReplyError):
                raise reply_failure(reply)
            check_code(reply, job_id=job_id, action="logged to")


def expect_list(reply: Reply) -> list[Any]:
    """Check that a script's reply is a list."""
    if not isinstance(reply, list):
        raise StoreError(f"A script of BullMQ's answered {reply!r} where a list was expected.")
    return reply


__all__ = [
    "HOT",
    "NOTHING",
    "Claim",
    "Code",
    "QueueScripts",
    "Script",
    "bulk",
    "check_code",
    "encode_options",
    "expect_list",
    "load_commands",
    "now_ms",
    "read_claim",
    "script",
]
