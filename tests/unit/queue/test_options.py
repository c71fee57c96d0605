"""Options and back-off, before anything reaches Redis."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.errors import PayloadInvalid
from corral.queue.options import Backoff, Deduplication, JobOptions, JobPriority, Retention, retry_delay


def test_priorities_are_those_of_the_quick_reference() -> None:
    assert [(p.name, p.value) for p in JobPriority] == [("CRITICAL", 0), ("HIGH", 1), ("MEDIUM", 5), ("LOW", 10)]


def test_defaults_are_three_attempts_with_doubling_back_off() -> None:
    assert JobOptions().to_wire(0) == {
        "attempts": 3,
        "backoff": {"type": "exponential", "delay": 1000},
        "priority": 5,
    }


def test_everything_has_its_bullmq_name() -> None:
    options = JobOptions(
        priority=0,
        lifo=True,
        job_id="mine",
        backoff=Backoff(timedelta(seconds=2), "fixed", jitter=0.5),
        deduplication=Deduplication("d", ttl=timedelta(seconds=3), extend=True),
        keep_completed=Retention(age=timedelta(hours=1), count=5),
        keep_logs=7,
        trace_context="{}",
    )
    assert options.to_wire(9) == {
        "attempts": 3,
        "backoff": {"type": "fixed", "delay": 2000, "jitter": 0.5},
        "delay": 9,
        "jobId": "mine",
        "lifo": True,
        "deduplication": {"id": "d", "ttl": 3000, "extend": True},
        "removeOnComplete": {"age": 3600, "count": 5},
        "keepLogs": 7,
        "telemetryMetadata": "{}",
    }


@pytest.mark.parametrize(
    ("wire", "made", "expected_ms"),
    [
        (500, 3, 500),
        ({"type": "fixed", "delay": 500}, 3, 500),
        ({"type": "exponential", "delay": 1000}, 1, 1000),
        ({"type": "exponential", "delay": 1000}, 2, 2000),
        ({"type": "exponential", "delay": 1000}, 3, 4000),
        ({"type": "unheard of", "delay": 10}, 1, 10),
        (None, 1, 0),
        ("nonsense", 1, 0),
        ({"type": "exponential", "delay": "nonsense"}, 1, 0),
    ],
)
def test_retry_delay_reads_what_any_client_wrote(wire: Any, made: int, expected_ms: int) -> None:
    assert retry_delay(wire, made, ValueError(), {}) == timedelta(milliseconds=expected_ms)


@given(
    delay=st.floats(0, 1e9),
    jitter=st.floats(0.01, 1),
    made=st.integers(1, 10_000),
    kind=st.sampled_from(["fixed", "exponential"]),
)
def test_jitter_stays_between_its_bounds(delay: float, jitter: float, made: int, kind: str) -> None:
    plain = retry_delay({"type": kind, "delay": delay}, made, ValueError(), {})
    spread = retry_delay({"type": kind, "delay": delay, "jitter": jitter}, made, ValueError(), {})
    assert plain is not None
    assert spread is not None
    assert timedelta(0) <= spread <= plain + timedelta(microseconds=2)
    if plain < timedelta(days=3649):
        assert spread >= plain * (1 - jitter) - timedelta(microseconds=2)


def test_an_own_strategy_decides_and_may_forbid_the_retry() -> None:
    strategies = {"mine": lambda made, error: None if isinstance(error, KeyError) else timedelta(seconds=made)}
    assert retry_delay({"type": "mine"}, 4, ValueError(), strategies) == timedelta(seconds=4)
    assert retry_delay({"type": "mine"}, 4, KeyError(), strategies) is None


@pytest.mark.parametrize("values", [{"delay": timedelta(seconds=-1)}, {"jitter": 1.5}, {"jitter": -0.1}])
def test_a_wrong_back_off_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(PayloadInvalid, match=next(iter(values))):
        Backoff(**values)
