"""Test reports as names and as words for models."""

from __future__ import annotations

from corral.jobs.test_execution.report import CaseOutcome, TestReport


def describe(report: TestReport) -> str:
    """A report in one line."""
    if not report.total:
        return "passed" if report.passed else f"failed (exit code {report.exit_code}, {report.ending})"
    failed = report.failed + report.errors
    return f"{report.succeeded} of {report.total} pass" + (f", {failed} fail" if failed else "")


def failing(report: TestReport | None) -> set[str]:
    """Names of the tests that do not pass."""
    return _named(report, {CaseOutcome.FAILED, CaseOutcome.ERROR})


def passing(report: TestReport | None) -> set[str]:
    """Names of the tests that pass."""
    return _named(report, {CaseOutcome.PASSED})


def _named(report: TestReport | None, outcomes: set[CaseOutcome]) -> set[str]:
    cases = report.cases if report is not None else ()
    return {f"{case.file or ''}::{case.name}" for case in cases if case.outcome in outcomes}


def failure_digest(report: TestReport, *, limit: int = 2500) -> str:
    """What a model needs to know about failing tests: names, messages, the ends of traces; bounded."""
    said: list[str] = []
    for case in report.cases:
        if case.outcome in {CaseOutcome.FAILED, CaseOutcome.ERROR}:
            trace = (case.trace or case.message or "").strip()
            said.append(f"{case.name}:\n{trace[-700:]}")
    text = "\n\n".join(said) or report.output_tail[-limit:]
    return text if len(text) <= limit else text[:limit] + "\n…"
