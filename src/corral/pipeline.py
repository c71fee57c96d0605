"""A prompt to a pull request: the four job types as one job.

A ``pipeline`` job's handler adds the four jobs one after the other and waits for each, since each needs what the one
before found out: the commit to start from, the commit to test, the report to show. It does no work itself, so one
worker can hold many of them.

It survives its worker. The steps' ids are made from the pipeline's own id, so that a handler that starts again finds
the steps that it added before, waits for those that run, and takes the results of those that have ended
(``docs/decisions/0010-pipeline-as-a-job.md``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from time import monotonic
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from corral.client import Corral
from corral.errors import (
    CorralError,
    JobCancelled,
    JobFailed,
    JobNotFound,
    JobStateConflict,
    ResultTimedOut,
    Unrecoverable,
)
from corral.jobs.code_generation.payload import Budget, CodeGeneration
from corral.jobs.code_generation.result import CodeGenerationResult
from corral.jobs.codebase_indexing.payload import CodebaseIndexing, IndexingResult
from corral.jobs.job_type import JobType
from corral.jobs.payload import BranchName, ProjectId, RepoPath, TaskId, UserId, WireModel
from corral.jobs.pr_creation.payload import PrCreation, PrResult
from corral.jobs.test_execution.payload import TestExecution
from corral.jobs.test_execution.report import CaseOutcome, TestReport
from corral.projects import Project
from corral.queue.job import Job, JobState
from corral.queue.status import JobStatus, QueuedJob
from corral.wire.keys import QueueKeys

PIPELINE: Final = "pipeline"
"""The job type's name and its queue's."""

CONCURRENCY: Final = 50
"""A pipeline only waits, so one worker holds many."""
MAX_CRASHES: Final = 20
"""More than a step's: when a step takes its worker down, the pipeline on the same worker is not to blame."""

_GLANCE: Final = timedelta(seconds=1)
_TITLE_LENGTH: Final = 72
_CASES_NAMED: Final = 10
# Where each step's own 0 to 100 lies within the pipeline's.
_SPAN: Final[Mapping[JobType, tuple[float, float]]] = {
    JobType.CODEBASE_INDEXING: (0, 15),
    JobType.CODE_GENERATION: (15, 75),
    JobType.TEST_EXECUTION: (75, 92),
    JobType.PR_CREATION: (92, 100),
}
STEPS: Final = tuple(_SPAN)
"""The job types of a pipeline's steps, in their order."""


class Pipeline(WireModel):
    """Turn a prompt into a pull request."""

    task_id: TaskId
    user_id: UserId
    project_id: ProjectId
    prompt: Annotated[str, Field(min_length=1, max_length=100_000)]
    base_branch: BranchName | None = None
    """Start from and merge into this branch; default: the project's."""
    files: tuple[RepoPath, ...] = ()
    model: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    fallback_models: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = ()
    budget: Budget = Budget()
    candidates: int = Field(default=3, ge=1, le=10)
    max_repairs: int = Field(default=2, ge=0, le=10)
    test_command: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """Default: the project's own; with neither, the pull request says that nothing was tested."""
    when_tests_fail: Literal["stop", "draft"] = "stop"
    """``draft`` opens a draft all the same, and says what failed."""
    title: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Of the pull request; default: made from the change's summary."""
    labels: tuple[Annotated[str, Field(min_length=1, max_length=50)], ...] = ()
    reviewers: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()


class StepState(StrEnum):
    """Where one step of a pipeline stands."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    SKIPPED = "skipped"


class Step(WireModel):
    """One step of a pipeline, as its progress and its result tell."""

    job_type: JobType
    job_id: str
    state: StepState = StepState.PENDING
    seconds: float = 0.0
    """From when it was added until it ended, waiting included."""
    error: str | None = None


class PipelineResult(WireModel):
    """What came of the prompt."""

    task_id: str
    branch: str
    commit: str
    steps: tuple[Step, ...]
    indexing: IndexingResult | None
    """None when indexing failed; the change was then made without the index (its step says why)."""
    generation: CodeGenerationResult
    tests: TestReport | None
    """None when the project has no test command."""
    pull_request: PrResult
    seconds: float


def register(corral: Corral) -> None:
    """Declare the ``pipeline`` job type with its handler."""
    corral.handler(
        PIPELINE,
        concurrency=CONCURRENCY,
        max_crashes=MAX_CRASHES,
        description="Turn a prompt into a pull request, by way of the four other job types.",
    )(PipelineHandler(corral))


class PipelineHandler:
    """Handles ``pipeline`` jobs.

    Effects: Adds one job of each of the four types; what those do is theirs.
    Safe to repeat: A repetition finds the jobs of the first run by their ids.
    """

    def __init__(self, corral: Corral) -> None:
        """Add the steps through ``corral``, which has the four job types."""
        self._corral = corral

    async def __call__(self, job: Job[Pipeline]) -> PipelineResult:
        """Run the steps.

        Raises:
            Unrecoverable: A step failed for good (``step_failed``), the model changed nothing (``no_change``), or the
                tests failed (``tests_failed``).
        """
        project = await self._corral.parts.projects.get(job.data.project_id)
        run = _Run(self._corral, job, project)
        await run.recall()
        try:
            return await run.all()
        except asyncio.CancelledError:
            await run.stopped()
            raise


class _Run:
    """One attempt at one pipeline."""

    def __init__(self, corral: Corral, job: Job[Pipeline], project: Project) -> None:
        self._corral = corral
        self._job = job
        self._project = project
        # The instant makes ids new when the queue was emptied and counts from 1 again.
        born = f"{job.created_at.timestamp():.3f}" if job.created_at else "0"
        self._steps = {kind: Step(job_type=kind, job_id=f"{PIPELINE}-{job.id}-{born}-{kind}") for kind in _SPAN}
        self._current: JobType | None = None
        self._reported: Any = None
        self._failed_before: set[JobType] = set()

    async def recall(self) -> None:
        """Learn which steps an earlier run saw fail: a run after that is somebody's retry of the failed pipeline.

        (A failure that no run has reported, since the worker died first, is this run's to report.)
        """
        own = await self._corral.get_job_status(PIPELINE, self._job.id)
        self._failed_before = {step.job_type for step in reported_steps(own) if step.state is StepState.FAILED}

    async def all(self) -> PipelineResult:
        """Run the steps that have not run."""
        begun = monotonic()
        asked, project = self._job.data, self._project
        base_branch = asked.base_branch or project.default_branch
        task = {"task_id": asked.task_id, "user_id": asked.user_id, "project_id": asked.project_id}

        indexing = await self._index(CodebaseIndexing(**task, branch=base_branch))
        test_command = asked.test_command or project.test_command
        generation: CodeGenerationResult = await self._step(
            JobType.CODE_GENERATION,
            CodeGeneration(
                **task,
                prompt=asked.prompt,
                base_branch=base_branch,
                commit_id=indexing.commit if indexing else None,
                files=asked.files,
                model=asked.model,
                fallback_models=asked.fallback_models,
                budget=asked.budget,
                test_command=test_command,
                candidates=asked.candidates,
                max_repairs=asked.max_repairs,
            ),
        )
        commit, branch = generation.commit, generation.branch
        if commit is None or branch is None:
            why = generation.summary or generation.ended
            raise Unrecoverable(f"The model changed nothing, so there is nothing to open: {why}", reason="no_change")
        tests = await self._test(commit, test_command, task)
        pull_request: PrResult = await self._step(
            JobType.PR_CREATION,
            PrCreation(
                **task,
                commit_id=commit,
                source_branch=branch,
                target_branch=base_branch,
                title=asked.title or title_from(generation.summary or asked.prompt),
                description=description_from(asked.prompt, generation, tests),
                draft=tests is None or not tests.passed,
                labels=asked.labels,
                reviewers=asked.reviewers,
                test_summary=test_summary(tests) if tests else None,
            ),
        )
        return PipelineResult(
            task_id=asked.task_id,
            branch=branch,
            commit=commit,
            steps=tuple(self._steps.values()),
            indexing=indexing,
            generation=generation,
            tests=tests,
            pull_request=pull_request,
            seconds=round(monotonic() - begun, 3),
        )

    async def stopped(self) -> None:
        """The pipeline was told to stop. When that was a cancellation, its running step is cancelled too.

        After a shutdown or a lost lease the step goes on, and the pipeline's next run finds it.
        """
        if self._current is None:
            return
        keys = QueueKeys(self._corral.prefix, PIPELINE)
        with suppress(CorralError):
            if await self._corral.redis.exists(keys.cancelled(self._job.id)):
                await self._corral.cancel_job(
                    self._current, self._steps[self._current].job_id, reason=f"pipeline {self._job.id} was cancelled"
                )

    async def _index(self, payload: CodebaseIndexing) -> IndexingResult | None:
        """Index the project. A failure costs context, not the change: it is told, and the pipeline goes on."""
        try:
            result: IndexingResult = await self._step(JobType.CODEBASE_INDEXING, payload)
        except Unrecoverable as error:
            await self._job.log(f"going on without the index: {error}")
            return None
        return result

    async def _test(self, commit: str, command: str | None, task: Mapping[str, Any]) -> TestReport | None:
        if command is None:
            await self._job.log("the project has no test command: nothing is tested, and the pull request is a draft")
            self._set(JobType.TEST_EXECUTION, state=StepState.SKIPPED)
            return None
        report: TestReport = await self._step(
            JobType.TEST_EXECUTION,
            TestExecution(**task, test_command=command, commit_id=commit, setup_command=self._project.setup_command),
        )
        await self._job.log(f"tests: {report.succeeded} passed, {report.failed + report.errors} failed")
        if not report.passed and self._job.data.when_tests_fail == "stop":
            raise Unrecoverable(
                f"The tests fail at the generated commit {commit[:12]}: {_failures(report)}. Nothing was opened",
                reason="tests_failed",
            )
        return report

    async def _step(self, kind: JobType, payload: WireModel) -> Any:
        """Add one step's job, or find the one that an earlier run added, and wait for its result."""
        step, self._current = self._steps[kind], kind
        self._set(kind, state=StepState.RUNNING)
        await self._job.progress(self._progress(_SPAN[kind][0]))
        queued = await self._queued(kind, step.job_id, payload)
        try:
            while True:
                try:
                    result = await self._corral.wait_for_result(queued, timeout=_GLANCE)
                    break
                except ResultTimedOut:
                    await self._look(kind)
        except (JobFailed, JobNotFound) as error:
            # Not found: somebody cancelled or removed it while it waited, which leaves nothing behind.
            why = getattr(error, "reason", "") or str(error)
            await self._look(kind)
            self._set(kind, state=StepState.FAILED, error=why)
            await self._job.progress(self._progress(_SPAN[kind][0]))
            verb = "was cancelled" if isinstance(error, (JobCancelled, JobNotFound)) else "failed"
            raise Unrecoverable(f"{kind} {verb}: {why}", reason="step_failed") from error
        await self._look(kind)
        self._set(kind, state=StepState.COMPLETED)
        self._current = None
        await self._job.progress(self._progress(_SPAN[kind][1]))
        return result

    async def _queued(self, kind: JobType, job_id: str, payload: WireModel) -> QueuedJob[Any]:
        """The step's job: a new one, the one of an earlier run, or a failed one that is given another try."""
        await self._job.log(f"{kind}: job {job_id}")
        queued = await self._corral.add_job(kind, payload, job_id=job_id, priority=self._job.priority)
        if kind in self._failed_before:
            status = await self._corral.get_job_status(kind, job_id)
            if status.state is JobState.FAILED:
                with suppress(JobStateConflict):
                    await self._corral.retry_job(kind, job_id)
        return queued

    async def _look(self, kind: JobType) -> None:
        """Take over how far the running step is, and how long it has taken."""
        try:
            status = await self._corral.get_job_status(kind, self._steps[kind].job_id)
        except JobNotFound:
            return  # the wait says so next
        if status.created_at is not None:
            until = status.finished_at or datetime.now(UTC)
            self._set(kind, seconds=round((until - status.created_at).total_seconds(), 3))
        news = (status.state, status.progress, status.progress_detail)
        if news != self._reported and status.state not in {JobState.COMPLETED, JobState.FAILED}:
            self._reported = news
            low, high = _SPAN[kind]
            stage = (status.progress_detail or {}).get("stage")
            await self._job.progress(self._progress(low + (high - low) * status.progress / 100, stage))

    def _set(self, kind: JobType, **changes: Any) -> None:
        self._steps[kind] = self._steps[kind].model_copy(update=changes)

    def _progress(self, percent: float, stage: object = None) -> dict[str, Any]:
        named = f"{self._current}: {stage}" if self._current and isinstance(stage, str) and stage else self._current
        return {
            "percent": round(percent, 1),
            "stage": str(named or "between steps"),
            "steps": [step.model_dump(mode="json", by_alias=True) for step in self._steps.values()],
        }


def reported_steps(status: JobStatus) -> list[Step]:
    """The steps of a pipeline as it last reported them; none before it began."""
    return [Step.model_validate(step) for step in (status.progress_detail or {}).get("steps", ())]


def title_from(text: str) -> str:
    """A pull request's title: the first line, cut at a word."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "Change made by Corral")
    if len(line) <= _TITLE_LENGTH:
        return line
    cut = line[: _TITLE_LENGTH - 1].rsplit(" ", 1)[0].rstrip(" ,;:.")
    return f"{cut or line[: _TITLE_LENGTH - 1]}…"


def description_from(prompt: str, generation: CodeGenerationResult, tests: TestReport | None) -> str:
    """A pull request's body in Markdown: what was asked, what was done, and that nothing was tested when so."""
    # Quoted line by line, so that markup in a prompt can't pass for the description's own.
    quoted = "\n".join(f"> {line}" for line in prompt.strip()[:20_000].splitlines())
    parts = [f"Asked for:\n\n{quoted}"]
    if generation.summary:
        parts.append(generation.summary[:20_000])
    if tests is None:
        parts.append("The project has no test command, so nothing was tested.")
    parts.append(f"Written by `{generation.model}`.")
    return "\n\n".join(parts)


def test_summary(report: TestReport) -> str:
    """What the tests said, in Markdown."""
    verdict = "All tests pass" if report.passed else "**Tests fail**"
    first = (
        f"{verdict}: {report.succeeded} of {report.total} passed, {report.failed + report.errors} failed, "
        f"{report.skipped} skipped, in {report.seconds:.1f} s (`{report.command}`)."
    )
    lines = [first]
    lines += [f"- `{case.name}`: {case.outcome}" for case in _failed(report)[:_CASES_NAMED]]
    return "\n".join(lines)


def _failed(report: TestReport) -> Sequence[Any]:
    return [case for case in report.cases if case.outcome in {CaseOutcome.FAILED, CaseOutcome.ERROR}]


def _failures(report: TestReport) -> str:
    names = [case.name for case in _failed(report)]
    if not names:
        return f"{report.ending}, exit code {report.exit_code}"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} of {report.total} ({', '.join(names[:3])}{more})"
