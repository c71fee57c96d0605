"""What a code-generation job gives back."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from corral.jobs.payload import WireModel
from corral.jobs.test_execution.report import TestReport


class EndReason(StrEnum):
    """Why the work ended."""

    TESTS_PASS = "tests_pass"  # noqa: S105 - not a password
    """The tests pass with the change."""
    FINISHED = "finished"
    """The model said that it was done, and there was no test command to judge it."""
    TESTS_FAIL = "tests_fail"
    """Tests still fail with the best change, after all repairs and candidates."""
    NO_CHANGE = "no_change"
    """Nothing had to be changed, or the model found nothing to change; there is no commit."""
    STEP_LIMIT = "step_limit"
    """The model used all its steps; what there is was kept."""
    BUDGET = "budget"
    """The job's, the user's or the day's budget was used up; what there is was kept."""
    REFUSED = "refused"
    """The model or its provider would not do it; there is no commit."""


class FileStatus(StrEnum):
    """What happened to a file; a renamed one is a deleted and an added one."""

    ADDED = "added"
    MODIFIED = "modified"
    DELETED = "deleted"


class ChangedFile(WireModel):
    """One file of the commit."""

    path: str
    status: FileStatus
    lines_added: int = 0
    lines_removed: int = 0


class AppliedEdit(WireModel):
    """One edit that was applied, and how its place was found."""

    path: str
    how: str
    """``exact``, ``trailing-space``, ``look-alikes``, ``indentation``, ``spacing``, ``elided``, ``fuzzy``,
    ``whole-file``, ``definition``, ``created``, ``deleted`` or ``renamed``."""
    similarity: float = 1.0
    """Of the text looked for and the text found, 0 to 1."""
    line: int | None = None
    """Where it was found, from 1."""


class ExampleCount(WireModel):
    """Examples of what has to hold, written by the model from the task alone, where no test speaks of the change."""

    written: int
    """Those that did not hold before the change."""
    holding: int
    """Of these: with the change. The model may have written some of them wrong."""


class Step(WireModel):
    """One thing that was done, in order."""

    kind: str
    """``look``, ``ask``, ``edit``, ``check`` or ``repair``."""
    detail: str
    seconds: float = 0.0


class TokenCount(WireModel):
    """Tokens that the answers took, those from the cache not counted."""

    input: int = 0
    output: int = 0
    cached_input: int = 0
    """Of ``input``: read from the provider's own prompt cache."""


class CodeGenerationResult(WireModel):
    """The commit, and how it came about. No change is a completed job: ``commit`` is then None."""

    task_id: str
    project_id: str
    ended: EndReason
    partial: bool = False
    """The work was cut short (budget or steps)."""
    branch: str | None = None
    commit: str | None = None
    base: str
    """The commit that it started from."""
    diff: str = ""
    """Unified diff from ``base`` to ``commit``; cut at 1 MB (``diff_cut``)."""
    diff_cut: bool = False
    files: tuple[ChangedFile, ...] = ()
    summary: str = ""
    """In the model's words, for people."""
    steps: tuple[Step, ...] = ()
    edits: tuple[AppliedEdit, ...] = ()
    tests_before: TestReport | None = None
    tests_after: TestReport | None = None
    examples: ExampleCount | None = None
    """None where the tests judged the change, or nothing was left to choose from."""
    model: str
    """The model that did it; the last one when models fell back."""
    models_failed: dict[str, str] = Field(default_factory=dict)
    """Models that were given up on, and why."""
    tokens: TokenCount = TokenCount()
    cost_usd: float | None = None
    """None when the price is not known."""
    requests: int = 0
    """Questions to the model, those answered from the cache included."""
    cache_hits: int = 0
    candidates_tried: int = 1
    repairs: int = 0
    resumed_steps: int = 0
    """Finished steps that an earlier attempt had left."""
    seconds: float = 0.0
