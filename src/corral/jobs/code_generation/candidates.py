"""Best of n, with the tests as judge."""

from __future__ import annotations

from dataclasses import dataclass, replace

from corral.jobs.code_generation.changes import Version
from corral.jobs.code_generation.examples import most_agreed
from corral.jobs.code_generation.report_text import describe, failing, passing
from corral.jobs.code_generation.result import AppliedEdit, EndReason
from corral.jobs.code_generation.session import Session
from corral.jobs.test_execution.report import TestReport


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a workflow came to; the session holds the files."""

    ended: EndReason
    summary: str
    tests_before: TestReport | None = None
    tests_after: TestReport | None = None
    partial: bool = False


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One change that was judged."""

    files: dict[str, Version | None]
    edits: tuple[AppliedEdit, ...]
    report: TestReport | None
    examples: frozenset[int] | None = None
    """Which examples hold, where these had to judge."""
    summary: str
    score: tuple[bool, int, int]
    """Whether all is well; how little it broke that had passed; how many tests pass."""

    @property
    def passed(self) -> bool:
        """Whether the tests pass, or there are none."""
        return self.score[0]


class Candidates:
    """Keeps the best so far."""

    def __init__(self, session: Session, before: TestReport | None) -> None:
        self._session = session
        self._before = before
        self._best: Candidate | None = None
        self._alike: list[Candidate] = []
        """Those that the tests have nothing against; the examples tell them apart."""

    async def judge(self, *, stage: str, summary: str = "") -> Candidate:
        """Run the tests on the worktree as it is, and keep it when it is the best."""
        session = self._session
        report = await session.run_tests(stage=stage)
        passed = report is None or report.passed
        candidate = Candidate(
            files=session.files.changed(),
            edits=tuple(session.account.edits),
            report=report,
            summary=summary or _summary(session.account.edits, report),
            score=(
                passed,
                -len(failing(report) & passing(self._before)),
                report.succeeded if report is not None else 0,
            ),
        )
        if self._best is None or candidate.score > self._best.score:
            self._best = candidate
        return candidate

    def weigh(self, candidate: Candidate, examples: frozenset[int]) -> None:
        """Say which examples hold with a candidate that the tests have nothing against.

        Among those that were weighed, agreement decides.
        """
        self._alike.append(replace(candidate, examples=examples))
        self._best = self._alike[most_agreed([one.examples or frozenset() for one in self._alike])]

    @property
    def best(self) -> Candidate | None:
        """The one that is kept as it looks now."""
        return self._best

    def conclude(self, ended: EndReason | None, summary: str = "") -> Outcome:
        """Put the best candidate's files in place.

        Args:
            ended: Why the work was cut short; None when it was not.
            summary: What is said when there is no candidate.
        """
        best, session = self._best, self._session
        if best is None:
            session.files.restore()
            session.account.edits = []
            return Outcome(
                ended=ended or EndReason.NO_CHANGE,
                summary=summary or "The model found nothing to change.",
                tests_before=self._before,
                tests_after=self._before,
                partial=ended is not None,
            )
        session.files.restore(best.files)
        session.account.edits = list(best.edits)
        judged = EndReason.FINISHED if best.report is None else EndReason.TESTS_PASS
        if best.passed and best.report is not None:
            ended = None  # what cut the work short no longer matters
        return Outcome(
            ended=ended or (judged if best.passed else EndReason.TESTS_FAIL),
            summary=best.summary + self._told_of_examples(best),
            tests_before=self._before,
            tests_after=best.report,
            partial=ended is not None,
        )

    def _told_of_examples(self, candidate: Candidate) -> str:
        count = self._session.account.examples
        if candidate.examples is None or count is None:
            return ""
        return f" Examples that the model wrote from the task: {count.holding} of {count.written} hold."


def _summary(edits: list[AppliedEdit], report: TestReport | None) -> str:
    places = sorted({edit.path for edit in edits})
    told = f"Changed {', '.join(places)}."
    return f"{told} Tests: {describe(report)}." if report is not None else told
