"""Judges one run of the tests: whether they passed, or could not be run, and what its report says."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from corral.adapters.sandbox.port import RunEnding, SandboxResult
from corral.errors import Unrecoverable
from corral.jobs.test_execution.dependencies import Prepared
from corral.jobs.test_execution.output import OutputLog
from corral.jobs.test_execution.parsing import ParsedReport
from corral.jobs.test_execution.report import Artifact, CaseOutcome, TestCase, TestReport
from corral.jobs.test_execution.runners import Plan, ReportFormat

_KEPT_CASES = 2000
_KEPT_CHARACTERS = 400_000
_SLOWEST = 10
_CANNOT_EXECUTE, _NOT_FOUND = 126, 127
_PYTEST_NO_TESTS = 5
#: What runners print that end on "no tests" before they make a report. It only chooses between two reasons.
_FOUND_NONE = {"mocha": "No test files found", "nextest": "no tests to run", "vitest": "No test files found"}


@dataclass(slots=True)
class Run:
    """One execution of the tests."""

    plan: Plan
    result: SandboxResult
    parsed: ParsedReport
    log: OutputLog


def ended(result: SandboxResult) -> str:
    """Say how a run ended, after "it"."""
    if result.ending is RunEnding.EXITED:
        return f"ended with exit code {result.exit_code}"
    return f"was ended ({result.ending}: {result.detail})"


_ERROR = re.compile(r"^\s*(?:\w*(?:Error|Exception)|error|panic|fatal)(?:\[\w+\])?:", re.MULTILINE)


def last_words(log: OutputLog) -> str:
    """Return the lines of the output that most likely say why it ended, bounded."""
    lines = [line for line in log.tail().splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if _ERROR.search(line)]
    if errors and errors[-1] < len(lines) - 15:
        lines = lines[max(0, errors[-1] - 3) : errors[-1] + 12]  # a stack longer than what is shown
    return "\n".join(lines[-15:])[-1500:] or "it printed nothing"


def verdict_of(run: Run) -> bool:
    """Decide whether the tests passed.

    Raises:
        Unrecoverable: They could not be run, which says nothing about the code.
    """
    result, parsed, plan = run.result, run.parsed, run.plan
    outcomes = {case.outcome for case in parsed.cases}
    bad = bool(outcomes & {CaseOutcome.FAILED, CaseOutcome.ERROR})
    if result.ending is not RunEnding.EXITED:
        return False
    if result.exit_code in (_CANNOT_EXECUTE, _NOT_FOUND) and not parsed.cases:
        raise Unrecoverable(f"the test command was not found: {last_words(run.log)}", reason="command_not_found")
    if parsed.cases:
        return not bad and result.exit_code == 0
    known = parsed.started or plan.format is not ReportFormat.UNKNOWN
    if not known:
        return result.exit_code == 0
    empty = result.exit_code in (0, _PYTEST_NO_TESTS) or parsed.runner is None or parsed.expected == 0
    found_none = _FOUND_NONE.get(plan.runner)
    if (parsed.started and empty) or (found_none is not None and found_none in run.log.tail()):
        raise Unrecoverable(
            f"{parsed.runner or plan.runner} found no tests: {last_words(run.log)}", reason="no_tests_collected"
        )
    raise Unrecoverable(
        f"{parsed.runner or plan.runner} ended with exit code {result.exit_code} before its first test: "
        f"{last_words(run.log)}",
        reason="tests_not_run",
    )


def _kept(cases: Sequence[TestCase]) -> tuple[TestCase, ...]:
    """Keep a bounded number of cases and characters, those that failed before all others, in the order of the run."""
    bad = [index for index, case in enumerate(cases) if case.outcome in (CaseOutcome.FAILED, CaseOutcome.ERROR)]
    good = [index for index, case in enumerate(cases) if case.outcome not in (CaseOutcome.FAILED, CaseOutcome.ERROR)]
    kept: dict[int, TestCase] = {}
    left = _KEPT_CHARACTERS
    for index in [*bad, *good][:_KEPT_CASES]:
        case = cases[index]
        size = len(case.trace or "") + len(case.output or "") + len(case.message or "")
        if size > left:
            case, size = case.model_copy(update={"trace": None, "output": None, "message": None}), 0
        left -= size
        kept[index] = case
    return tuple(kept[index] for index in sorted(kept))


def report_of(
    run: Run,
    *,
    passed: bool,
    command: str,
    commit: str,
    environment: Mapping[str, str],
    prepared: Prepared,
    flaky: tuple[str, ...],
    artifacts: tuple[Artifact, ...],
    coverage: float | None,
) -> TestReport:
    """Put the report together; of many cases and long texts only a bounded part."""
    cases, result = run.parsed.cases, run.result
    counts = {outcome: sum(case.outcome is outcome for case in cases) for outcome in CaseOutcome}
    kept = _kept(cases)
    slowest = sorted(cases, key=lambda case: case.seconds, reverse=True)[:_SLOWEST]
    return TestReport(
        passed=passed,
        runner=run.parsed.runner or run.plan.runner,
        command=command,
        commit=commit,
        total=len(cases),
        succeeded=counts[CaseOutcome.PASSED],
        failed=counts[CaseOutcome.FAILED],
        errors=counts[CaseOutcome.ERROR],
        skipped=counts[CaseOutcome.SKIPPED],
        cases=kept,
        cases_left_out=len(cases) - len(kept),
        slowest=tuple(case.key for case in slowest if case.seconds > 0),
        exit_code=result.exit_code,
        signal=result.signal,
        ending=result.ending,
        ending_detail=result.detail,
        seconds=round(result.seconds, 3),
        setup_seconds=round(prepared.seconds, 3),
        setup_cached=prepared.cached,
        output_tail=run.log.tail(),
        coverage_percent=coverage if coverage is None or math.isfinite(coverage) else None,
        cpu_seconds=result.cpu_seconds,
        peak_memory_bytes=result.peak_memory_bytes,
        environment=dict(environment),
        artifacts=artifacts,
        flaky=flaky,
    )
