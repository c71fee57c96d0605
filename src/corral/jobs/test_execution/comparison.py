"""Compares two runs of the same tests: what a change broke, and what it mended."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta

from pydantic import ValidationError

from corral.jobs.test_execution.payload import TestLimits
from corral.jobs.test_execution.report import CaseOutcome, TestReport
from corral.wire.commands import RedisCommands, text

_BAD = (CaseOutcome.FAILED, CaseOutcome.ERROR)


def compare(base: TestReport, head: TestReport) -> TestReport:
    """Return ``head`` with ``compared_to``, ``newly_failing`` and ``newly_passing`` filled in.

    A case that fails in ``head`` and did not fail in ``base`` is newly failing, also when ``base`` did not have it. One
    that failed in ``base`` and passes in ``head`` is newly passing. Flaky ones are neither. Where only an exit code is
    known, the whole command counts as one case, named like the command.
    """
    if not base.cases and not head.cases:
        was, now = {base.command: base.passed}, {head.command: head.passed}
        failed_before = {key for key, passed in was.items() if not passed}
        failing = {key for key, passed in now.items() if not passed}
        passing = {key for key, passed in now.items() if passed}
    else:
        failed_before = {case.key for case in base.cases if case.outcome in _BAD}
        failing = {case.key for case in head.cases if case.outcome in _BAD}
        passing = {case.key for case in head.cases if case.outcome is CaseOutcome.PASSED} - failing
    flaky = {*base.flaky, *head.flaky}
    return head.model_copy(
        update={
            "compared_to": base.commit,
            "newly_failing": tuple(sorted(failing - failed_before - flaky)),
            "newly_passing": tuple(sorted((failed_before & passing) - flaky)),
        }
    )


class Baselines:
    """Reports of whole commits, kept in Redis for comparisons, so that a base commit is tested once."""

    def __init__(self, redis: RedisCommands, *, prefix: str = "corral", keep: timedelta = timedelta(days=7)) -> None:
        """Use ``redis``; a report is kept for ``keep`` after its last use."""
        self._redis = redis
        self._prefix = prefix
        self._keep_ms = max(1, round(keep.total_seconds() * 1000))

    def key(
        self,
        *,
        project_id: str,
        commit: str,
        command: str,
        files: Sequence[str],
        setup_command: str | None,
        env: Mapping[str, str],
        limits: TestLimits,
        environment: Mapping[str, str],
    ) -> str:
        """Name the report of one commit, run in one way, in one environment."""
        what = [commit, command, sorted(files), setup_command, dict(env), limits.model_dump(), dict(environment)]
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return f"{self._prefix}:test-report:{project_id}:{digest[:40]}"

    async def get(self, key: str) -> TestReport | None:
        """Return a kept report; None when there is none, or one that an older version wrote otherwise."""
        reply = await self._redis.execute_command("GET", key)
        if reply is None:
            return None
        try:
            report = TestReport.model_validate_json(text(reply))
        except ValidationError:
            return None
        await self._redis.execute_command("PEXPIRE", key, self._keep_ms)
        return report

    async def put(self, key: str, report: TestReport) -> None:
        """Keep a report, without its long texts: a comparison needs names and outcomes."""
        cases = tuple(case.model_copy(update={"message": None, "trace": None, "output": None}) for case in report.cases)
        slim = report.model_copy(update={"cases": cases, "output_tail": "", "artifacts": ()})
        await self._redis.execute_command("SET", key, slim.model_dump_json(by_alias=True), "PX", self._keep_ms)
