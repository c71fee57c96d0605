"""Whether a failed attempt is tried again: a table of errors and verdicts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from corral.errors import (
    AdapterError,
    ConfigurationError,
    PayloadInvalid,
    ProcessDied,
    RateLimited,
    UnknownProject,
    Unrecoverable,
)
from corral.queue.retry import FailedAttempt, Verdict, decide, failed_attempt, reason_of, trace_of
from corral.wire.codec import JobRecord


def record(attempts: int = 3, made: int = 0) -> JobRecord:
    options = {"attempts": attempts, "backoff": {"type": "exponential", "delay": 1000}}
    return JobRecord("1", {"opts": json.dumps(options), "atm": str(made)})


def adapter(**values: Any) -> AdapterError:
    return AdapterError("x", service="s", operation="o", **{"retryable": True, **values})


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("error", "made", "verdict", "delay"),
    [
        (ValueError("x"), 0, Verdict.RETRY, SECOND),
        (ValueError("x"), 1, Verdict.RETRY, 2 * SECOND),
        (ValueError("x"), 2, Verdict.FAIL, 0 * SECOND),
        (ProcessDied(), 0, Verdict.RETRY, SECOND),
        (Unrecoverable("x"), 0, Verdict.FAIL, 0 * SECOND),
        (PayloadInvalid("x"), 0, Verdict.FAIL, 0 * SECOND),
        (UnknownProject("x"), 0, Verdict.FAIL, 0 * SECOND),
        (ConfigurationError("x"), 0, Verdict.FAIL, 0 * SECOND),
        (RateLimited("x", retry_after=5 * SECOND), 2, Verdict.PAUSE, 5 * SECOND),
        (adapter(), 0, Verdict.RETRY, SECOND),
        (adapter(retryable=False), 0, Verdict.FAIL, 0 * SECOND),
        (adapter(retry_after=5 * SECOND), 2, Verdict.PAUSE, 5 * SECOND),
        (adapter(retryable=False, retry_after=5 * SECOND), 0, Verdict.FAIL, 0 * SECOND),
    ],
)
def test_verdicts(error: BaseException, made: int, verdict: Verdict, delay: timedelta) -> None:
    decision = decide(error, record(made=made), {})
    assert (decision.verdict, decision.delay) == (verdict, delay)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("bad url"), "ValueError: bad url"),
        (KeyError(), "KeyError"),
        (Unrecoverable("no tests", reason="no_tests_collected"), "no_tests_collected: no tests"),
        (Unrecoverable("no tests"), "no tests"),
        (adapter(reason="branch_protected"), "branch_protected: x"),
    ],
)
def test_reasons(error: BaseException, text: str) -> None:
    assert reason_of(error) == text


def test_long_reasons_and_traces_are_cut() -> None:
    assert len(reason_of(ValueError("x" * 100_000))) < 5_000
    assert len(trace_of(ValueError("x" * 100_000), attempt=1)) < 20_000


def test_a_trace_says_which_attempt_failed_and_when() -> None:
    before = datetime.now(UTC)
    found = failed_attempt(trace_of(ValueError("no"), attempt=2))

    assert (found.number, found.trace, found.summary) == (2, "ValueError: no\n", "ValueError: no")
    assert found.at is not None
    assert before - timedelta(milliseconds=1) <= found.at <= datetime.now(UTC)


@pytest.mark.parametrize("trace", ["", "Error: no\n    at x.js:1", "[attempt 1 failed at 2026-99-99T99:99:99.999]\nx"])
def test_a_trace_of_another_worker_has_no_time(trace: str) -> None:
    assert failed_attempt(trace) == FailedAttempt(None, None, trace)
