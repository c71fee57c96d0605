"""How a job is to be run: priority, delay, attempts, back-off, retention, deduplication."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from typing import Any

from corral.errors import PayloadInvalid

#: BullMQ's bound: 2^21 - 1 (source: ``PRIORITY_LIMIT`` of its Node package).
PRIORITY_LIMIT = 2_097_151
#: Redis keeps a delayed job's due time times 4096 as a double; a year of delay is far inside that.
DELAY_LIMIT = timedelta(days=3650)


class JobPriority(IntEnum):
    """The customary priorities; any integer from 0 to 2,097,151 will do. Lower runs first, FIFO within one."""

    CRITICAL = 0
    HIGH = 1
    MEDIUM = 5
    LOW = 10


class BackoffKind(StrEnum):
    """How the delay before a retry grows."""

    FIXED = "fixed"
    EXPONENTIAL = "exponential"


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delay before a retry.

    Args:
        delay: Before the first retry; an exponential one doubles with each attempt. At least 0.
        kind: ``fixed``, ``exponential``, or the name of a strategy of the queue's workers (``handler(backoffs=...)``).
        jitter: From 0 to 1: the part of the delay that is drawn at random, so that jobs that failed together don't
            come back together.
    """

    delay: timedelta = timedelta(seconds=1)
    kind: BackoffKind | str = BackoffKind.EXPONENTIAL
    jitter: float = 0.0

    def __post_init__(self) -> None:
        if self.delay < timedelta(0):
            raise PayloadInvalid(f"backoff.delay: expected at least 0, got {self.delay}.")
        if not 0 <= self.jitter <= 1:
            raise PayloadInvalid(f"backoff.jitter: expected a number from 0 to 1, got {self.jitter!r}.")

    def to_wire(self) -> dict[str, Any]:
        """BullMQ's form."""
        wire: dict[str, Any] = {"type": str(self.kind), "delay": _ms(self.delay)}
        if self.jitter:
            wire["jitter"] = self.jitter
        return wire


BackoffStrategy = Callable[[int, BaseException], timedelta | None]
"""A back-off of one's own: gets the number of attempts that ended and the error; None forbids the retry."""


@dataclass(frozen=True, slots=True)
class Retention:
    """How long ended jobs are kept; None sets no bound. ``Retention(count=0)`` removes a job as it ends."""

    age: timedelta | None = None
    count: int | None = None

    def to_wire(self) -> dict[str, int]:
        """BullMQ's form: age in seconds, and how many."""
        wire: dict[str, int] = {}
        if self.age is not None:
            wire["age"] = max(0, round(self.age.total_seconds()))
        if self.count is not None:
            wire["count"] = self.count
        return wire or {"count": -1}


@dataclass(frozen=True, slots=True)
class Deduplication:
    """Jobs with the same id within its window are one.

    Args:
        id: What makes two jobs the same.
        ttl: None: until the first job has ended (simple mode). Set: for this long (throttle mode).
        extend: Each further job starts the window anew (debounce mode, with ``replace``).
        replace: While the first job is still delayed, a further one takes its place.
        keep_last_if_active: While the first job is active, keep the last further one to run after it.
    """

    id: str
    ttl: timedelta | None = None
    extend: bool = False
    replace: bool = False
    keep_last_if_active: bool = False

    def to_wire(self) -> dict[str, Any]:
        """BullMQ's form."""
        wire: dict[str, Any] = {"id": self.id}
        if self.ttl is not None:
            wire["ttl"] = max(1, _ms(self.ttl))
        for name, on in (("extend", self.extend), ("replace", self.replace)):
            if on:
                wire[name] = True
        if self.keep_last_if_active:
            wire["keepLastIfActive"] = True
        return wire


class ChildFailure(StrEnum):
    """What a failed child does to its parent in a flow."""

    WAIT = "wait"
    """The parent waits on: somebody has to retry or remove the child (BullMQ's default)."""
    FAIL_PARENT = "fail_parent"
    """The parent fails too."""
    CONTINUE_PARENT = "continue_parent"
    """The parent starts at once, without waiting for the other children. As in BullMQ it can't be completed before they
    have ended: an attempt that is done sooner fails, and is retried as its options say."""
    IGNORE = "ignore"
    """The child counts as ended; the parent sees its reason in ``children_failures``."""
    REMOVE = "remove"
    """The child is dropped from the parent's dependencies."""


_FAILURE_OPTION = {
    ChildFailure.FAIL_PARENT: "failParentOnFailure",
    ChildFailure.CONTINUE_PARENT: "continueParentOnFailure",
    ChildFailure.IGNORE: "ignoreDependencyOnFailure",
    ChildFailure.REMOVE: "removeDependencyOnFailure",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """Options of one job, with the defaults of its type filled in."""

    #: 0 is the most urgent.
    priority: int = JobPriority.MEDIUM
    #: Wait at least this long first.
    delay: timedelta | None = None
    #: Start at this time at the earliest; excludes ``delay``.
    run_at: datetime | None = None
    #: Tries in all, at least 1.
    attempts: int = 3
    backoff: Backoff | None = field(default_factory=Backoff)
    #: The caller's own id, which makes adding it twice one job; None lets Redis count.
    job_id: str | None = None
    #: Ahead of its equals instead of behind them; only with priority 0, as in BullMQ.
    lifo: bool = False
    deduplication: Deduplication | None = None
    keep_completed: Retention | None = None
    keep_failed: Retention | None = None
    #: How many log lines are kept; None keeps all.
    keep_logs: int | None = None
    #: W3C trace context as BullMQ's telemetry carries it: a JSON text.
    trace_context: str | None = None
    on_failure: ChildFailure = ChildFailure.WAIT

    def __post_init__(self) -> None:
        _expect(0 <= self.priority <= PRIORITY_LIMIT, "priority", f"0 to {PRIORITY_LIMIT}", self.priority)
        _expect(self.attempts >= 1, "attempts", "at least 1", self.attempts)
        if self.delay is not None:
            _expect(timedelta(0) <= self.delay <= DELAY_LIMIT, "delay", "0 to ten years", self.delay)
            if self.run_at is not None:
                raise PayloadInvalid("delay and run_at exclude each other: give one of them.")
        if self.run_at is not None and self.run_at.tzinfo is None:
            raise PayloadInvalid("run_at: expected an aware datetime, got one without a time zone.")
        if self.lifo and self.priority:
            raise PayloadInvalid("lifo needs priority 0: within a priority, BullMQ is first in, first out.")
        if self.job_id is not None:
            check_job_id(self.job_id)

    def changed(self, **values: Any) -> JobOptions:
        """A copy with some values replaced."""
        return replace(self, **values)

    def delay_ms(self, now_ms: int) -> int:
        """Milliseconds to wait, from now."""
        if self.run_at is not None:
            return max(0, round(self.run_at.astimezone(UTC).timestamp() * 1000) - now_ms)
        return _ms(self.delay) if self.delay is not None else 0

    def to_wire(self, delay_ms: int) -> dict[str, Any]:
        """BullMQ's options, in its long names; what is not set is left out."""
        given: dict[str, Any] = {
            "backoff": self.backoff.to_wire() if self.backoff is not None else None,
            "delay": delay_ms or None,
            "priority": int(self.priority) or None,
            "jobId": self.job_id,
            "lifo": self.lifo or None,
            "deduplication": self.deduplication.to_wire() if self.deduplication is not None else None,
            "removeOnComplete": self.keep_completed.to_wire() if self.keep_completed is not None else None,
            "removeOnFail": self.keep_failed.to_wire() if self.keep_failed is not None else None,
            "keepLogs": self.keep_logs,
            "telemetryMetadata": self.trace_context,
        }
        wire = {"attempts": self.attempts, **{name: value for name, value in given.items() if value is not None}}
        if self.on_failure is not ChildFailure.WAIT:
            wire[_FAILURE_OPTION[self.on_failure]] = True
        return wire

    @property
    def is_plain(self) -> bool:
        """Whether nothing in it belongs to one job only, so that its wire form can be kept."""
        return (
            self.delay is None
            and self.run_at is None
            and self.job_id is None
            and self.deduplication is None
            and self.trace_context is None
        )


def check_job_id(job_id: str) -> None:
    """Refuse ids that BullMQ can't keep.

    Raises:
        PayloadInvalid: Empty, too long, with control characters or a colon, or all digits (Redis counts those).
    """
    if not job_id or len(job_id) > 256 or any(ord(c) < 33 or ord(c) == 127 for c in job_id):
        raise PayloadInvalid(f"job_id: expected 1 to 256 characters without white space, got {job_id!r}.")
    if job_id.isdecimal():
        raise PayloadInvalid(
            f"job_id: {job_id!r} is a number, and those are given out by Redis; put a letter in front."
        )
    if ":" in job_id:
        raise PayloadInvalid(f"job_id: {job_id!r} holds a colon, which separates the parts of a Redis key.")


def retry_delay(
    wire: Any, attempts_made: int, error: BaseException, strategies: Mapping[str, BackoffStrategy]
) -> timedelta | None:
    """The delay before the next attempt, from a job's ``backoff`` option as any client wrote it.

    Args:
        wire: A number (fixed, in ms) or ``{"type", "delay", "jitter"}``.
        attempts_made: Attempts that have ended, the failed one included; at least 1.
        strategies: The queue's own ones, by name.

    Returns:
        None when a strategy forbids the retry.

    Source: exponential is delay * 2^(attempts - 1), jitter draws from [(1 - jitter) * delay, delay], as in BullMQ's
    ``Backoffs`` class.
    """
    if isinstance(wire, int | float) and not isinstance(wire, bool):
        return timedelta(milliseconds=max(0, wire))
    if not isinstance(wire, Mapping):
        return timedelta(0)
    kind = str(wire.get("type", BackoffKind.FIXED))
    if kind in strategies:
        return strategies[kind](attempts_made, error)
    delay = wire.get("delay", 0)
    base_ms = float(delay) if isinstance(delay, int | float) and delay > 0 else 0.0
    # 2^30 ms is twelve days: beyond that a retry is no retry, and 2.0 ** 1100 is an OverflowError.
    grown_ms = base_ms * 2 ** min(attempts_made - 1, 30) if kind == BackoffKind.EXPONENTIAL else base_ms
    jitter = wire.get("jitter", 0)
    if isinstance(jitter, int | float) and 0 < jitter <= 1:
        grown_ms *= 1 - jitter * random.random()  # noqa: S311 - spreads load, guards nothing
    return timedelta(milliseconds=min(grown_ms, _ms(DELAY_LIMIT)))


def _ms(value: timedelta) -> int:
    return round(value.total_seconds() * 1000)


def _expect(fits: bool, name: str, expected: str, got: object) -> None:  # noqa: FBT001 - reads as a sentence
    if not fits:
        raise PayloadInvalid(f"{name}: expected {expected}, got {got!r}.")
