"""What a test run said: the result of a test-execution job, and what judges a generated change."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from corral.adapters.sandbox.port import RunEnding
from corral.jobs.payload import WireModel

__all__ = ["Artifact", "CaseOutcome", "RunEnding", "TestCase", "TestReport"]


class CaseOutcome(StrEnum):
    """How one test case ended."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


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

    @property
    def key(self) -> str:
        """What makes it the same case in another run: ``file::name``, or the name alone."""
        return f"{self.file}::{self.name}" if self.file else self.name


class Artifact(WireModel):
    """A file that the run left and that was kept: a screenshot, a report, a trace."""

    path: str
    """Where it was in the worktree, with forward slashes."""
    size_bytes: int
    sha256: str
    stored_as: str
    """Its name for ``GET /v1/jobs/{type}/{id}/artifacts/{name}`` and ``Corral.get_artifact``; kept for two days."""


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
    """Bounded: failed ones first to be kept, then in the order of the run."""
    cases_left_out: int = 0
    """How many of ``total`` are not in ``cases``."""
    slowest: tuple[str, ...] = ()
    """Keys of the slowest cases, slowest first."""
    exit_code: int | None = None
    signal: int | None = None
    ending: RunEnding = RunEnding.EXITED
    ending_detail: str = ""
    """Which bound was passed, in words; empty when none was."""
    seconds: float = 0.0
    setup_seconds: float = 0.0
    setup_cached: bool = False
    """Whether the set-up's result came from the cache."""
    output_tail: str = ""
    """The last part of what was printed, bounded."""
    coverage_percent: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    """Sandbox, its version, and the toolchain: what another run must share to be comparable."""
    artifacts: tuple[Artifact, ...] = ()
    compared_to: str | None = None
    """The commit that ``newly_failing`` and ``newly_passing`` refer to."""
    newly_failing: tuple[str, ...] = ()
    newly_passing: tuple[str, ...] = ()
    flaky: tuple[str, ...] = ()
    """Keys of cases that failed and then passed when they were run again on the same commit."""
