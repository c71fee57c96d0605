"""Whether a failed attempt is tried again: the one place where that is decided."""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from corral.errors import (
    AdapterError,
    ConfigurationError,
    CorralError,
    PayloadInvalid,
    RateLimited,
    UnknownJobType,
    UnknownProject,
    Unrecoverable,
)
from corral.queue.options import BackoffStrategy, retry_delay
from corral.wire.codec import JobRecord

#: A trace longer than this is cut in its middle: Redis keeps it with the job.
_TRACE_CHARACTERS = 16_000
#: Reasons and messages end up in events, which every listener reads.
_REASON_CHARACTERS = 4_000
#: How many traces of earlier attempts are kept.
TRACES_KEPT = 10
_SUMMARY_CHARACTERS = 300
_HEAD = re.compile(r"\[attempt ([0-9]{1,9}) failed at ([0-9T:.+-]{20,40})\]\n")


class Verdict(StrEnum):
    """What becomes of a job whose attempt failed."""

    FAIL = "fail"
    RETRY = "retry"
    PAUSE = "pause"
    """Back to the head of the queue, which starts nothing for a while; the attempt is not counted."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, and the delay that goes with it."""

    verdict: Verdict
    delay: timedelta = timedelta(0)


#: Wrong in a way that another attempt can't mend.
_HOPELESS = (Unrecoverable, PayloadInvalid, UnknownProject, UnknownJobType, ConfigurationError)


def decide(error: BaseException, record: JobRecord, strategies: Mapping[str, BackoffStrategy]) -> Decision:
    """Say what becomes of a job.

    Args:
        error: What the attempt raised.
        record: The job as it was claimed.
        strategies: The job type's own back-offs.
    """
    if isinstance(error, RateLimited):
        return Decision(Verdict.PAUSE, error.retry_after)
    if isinstance(error, _HOPELESS) or (isinstance(error, AdapterError) and not error.retryable):
        return Decision(Verdict.FAIL)
    if isinstance(error, AdapterError) and error.retry_after is not None:
        return Decision(Verdict.PAUSE, error.retry_after)
    made = record.attempts_made + 1
    if made >= record.max_attempts:
        return Decision(Verdict.FAIL)
    delay = retry_delay(record.options.get("backoff"), made, error, strategies)
    return Decision(Verdict.FAIL) if delay is None else Decision(Verdict.RETRY, delay)


def reason_of(error: BaseException) -> str:
    """One line that says why an attempt failed."""
    text = str(error) or type(error).__name__
    if isinstance(error, Unrecoverable | AdapterError) and error.reason not in {"unrecoverable", "failed"}:
        text = f"{error.reason}: {text}"
    elif not isinstance(error, CorralError):
        text = f"{type(error).__name__}: {text}" if str(error) else text
    return text if len(text) <= _REASON_CHARACTERS else f"{text[:_REASON_CHARACTERS]}…"


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """One failed attempt, as a job's list of traces has it."""

    #: 1 for the first; None: a worker that isn't Corral's wrote it.
    number: int | None
    #: When it failed; None as above, for BullMQ's format keeps no such time.
    at: datetime | None
    trace: str

    @property
    def summary(self) -> str:
        """What went wrong, in one line: of a trace of Python's the last one, of Node's the first."""
        lines = self.trace.strip().splitlines()
        return (lines[0] if self.at is None else lines[-1])[:_SUMMARY_CHARACTERS] if lines else ""


def trace_of(error: BaseException, *, attempt: int) -> str:
    """What a job's list of traces holds of a failed attempt.

    BullMQ keeps the times of a job's last start and of its end, and of an earlier attempt nothing but this text. So its
    first line says which attempt it was and when it ended; `failed_attempt` reads it.

    Returns:
        That line and the error's traceback, cut in its middle when it is long.
    """
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return f"[attempt {attempt} failed at {now}]\n{_traceback_of(error)}"


def failed_attempt(trace: str) -> FailedAttempt:
    """Read what `trace_of` wrote, or the bare trace of another worker."""
    found = _HEAD.match(trace)
    if found is None:
        return FailedAttempt(None, None, trace)
    try:
        at = datetime.fromisoformat(found[2])
    except ValueError:  # somebody else's text that looks like ours
        return FailedAttempt(None, None, trace)
    return FailedAttempt(int(found[1]), at, trace[found.end() :])


def without_frames(trace: str) -> str:
    """A trace for those who are not to see a worker's files: the attempt, and the error's kind and message."""
    attempt = failed_attempt(trace)
    return trace[: len(trace) - len(attempt.trace)] + attempt.summary


def _traceback_of(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    if len(text) <= _TRACE_CHARACTERS:
        return text
    half = _TRACE_CHARACTERS // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half:,} characters left out ...]\n{text[-half:]}"
