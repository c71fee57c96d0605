"""What a test run said: the result of a test-execution job, and what judges a generated change."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from corral.jobs.payload import WireModel


class CaseOutcome(StrEnum):
    """How one test case ended."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


class RunEnding(StrEnum):
    """How the sandboxed process tree ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    TOO_MANY_PROCESSES = "too_many_processes"
    OUTPUT_LIMIT = "output_limit"
    DISK_FULL = "disk_full"
    CPU_LIMIT = "cpu_limit"
    CANCELLED = "cancelled"


class TestCase(WireModel):
    """One test case."""

    __test__ = False

    file: str | None = None
    name: str
    outcome: CaseOutcome
    seconds: float = 0.0
    message: str | None = None
    trace: str | None = None
    """Bounded."""
    output: str | None = None
    """Bounded."""


class TestReport(WireModel):
    """What happened when the tests ran. ``passed`` is false when any case failed; that is a completed job."""

    __test__ = False

    passed: bool
    runner: str
    """``pytest``, ``unittest``, ``jest``, …, or ``command`` when only the exit code is known."""
    command: str
    commit: str
    total: int = 0
    succeeded: int = 0
    failed: int = 0
    errors: int = 0
    skipped: int = 0
    cases: tuple[TestCase, ...] = ()
    slowest: tuple[str, ...] = ()
    exit_code: int | None = None
    signal: int | None = None
    ending: RunEnding = RunEnding.EXITED
    seconds: float = 0.0
    setup_seconds: float = 0.0
    output_tail: str = ""
    """The last part of what was printed, bounded."""
    coverage_percent: float | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    """Sandbox, its version, and the toolchain: what another run must share to be comparable."""
    newly_failing: tuple[str, ...] = ()
    newly_passing: tuple[str, ...] = ()
    flaky: tuple[str, ...] = ()
