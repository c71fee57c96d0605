"""The pipeline's own part: which jobs it adds, with what, and what it makes of how they end.

The four handlers here are stand-ins that answer with real results; the real ones have tests of their own, and the
acceptance test runs all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from corral import Corral, Job, JobCancelled, JobFailed, JobNotFound, JobState, Unrecoverable, pipeline
from corral.jobs.code_generation.payload import CodeGeneration
from corral.jobs.code_generation.result import CodeGenerationResult, EndReason
from corral.jobs.codebase_indexing.payload import CodebaseIndexing, IndexingResult
from corral.jobs.job_type import JobType
from corral.jobs.pr_creation.payload import PrCreation, PrResult, PrState
from corral.jobs.test_execution.payload import TestExecution
from corral.jobs.test_execution.report import CaseOutcome, TestCase, TestReport
from corral.pipeline import PIPELINE, PipelineResult, StepState, reported_steps
from corral.projects import Project
from corral.testing import EmbeddedServer

BASE, COMMIT = "b" * 40, "c" * 40
PATIENCE = timedelta(seconds=20)


class Steps:
    """Stand-ins for the four handlers: they record what they are given, and answer as told."""

    def __init__(self) -> None:
        self.given: list[Any] = []
        self.fail: set[JobType] = set()
        self.passed = True
        self.changed = True
        self.hold = asyncio.Event()
        self.hold.set()
        self.held = asyncio.Event()
        self.cancelled = asyncio.Event()

    def on(self, corral: Corral) -> None:
        """Declare them."""
        corral.handler(JobType.CODEBASE_INDEXING, attempts=1)(self.index)
        corral.handler(JobType.CODE_GENERATION, attempts=1)(self.generate)
        corral.handler(JobType.TEST_EXECUTION, attempts=1)(self.test)
        corral.handler(JobType.PR_CREATION, attempts=1)(self.open)
        pipeline.register(corral)

    def _take(self, kind: JobType, payload: Any) -> None:
        self.given.append(payload)
        if kind in self.fail:
            raise Unrecoverable(f"{kind} was told to fail")

    async def index(self, job: Job[CodebaseIndexing]) -> IndexingResult:
        self._take(JobType.CODEBASE_INDEXING, job.data)
        return IndexingResult(
            project_id="p", commit=BASE, files=1, chunks=1, languages={}, reused=0, seconds=0.1, embedder="none"
        )

    async def generate(self, job: Job[CodeGeneration]) -> CodeGenerationResult:
        self._take(JobType.CODE_GENERATION, job.data)
        await job.progress({"percent": 50, "stage": "asking"})
        self.held.set()
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return CodeGenerationResult(
            task_id=job.data.task_id,
            project_id="p",
            ended=EndReason.TESTS_PASS if self.changed else EndReason.NO_CHANGE,
            branch="corral/t1" if self.changed else None,
            commit=COMMIT if self.changed else None,
            base=BASE,
            diff="+x",
            summary="Add a thing\n\nIt was asked for.",
            model="scripted",
        )

    async def test(self, job: Job[TestExecution]) -> TestReport:
        self._take(JobType.TEST_EXECUTION, job.data)
        outcome = CaseOutcome.PASSED if self.passed else CaseOutcome.FAILED
        return TestReport(
            passed=self.passed,
            runner="pytest",
            command=job.data.test_command,
            commit=COMMIT,
            total=1,
            succeeded=int(self.passed),
            failed=int(not self.passed),
            cases=(TestCase(name="test_thing", outcome=outcome),),
        )

    async def open(self, job: Job[PrCreation]) -> PrResult:
        self._take(JobType.PR_CREATION, job.data)
        return PrResult(
            number=7,
            url="/pulls/7",
            head=COMMIT,
            base=BASE,
            source_branch=job.data.source_branch,
            target_branch=job.data.target_branch,
            state=PrState.DRAFT if job.data.draft else PrState.OPEN,
            created=True,
            files_changed=1,
            lines_added=1,
            lines_removed=0,
        )


class Farm:
    """A Corral with the stand-ins; workers started and stopped at will."""

    def __init__(self, url: str, prefix: str, steps: Steps) -> None:
        self.url, self.prefix, self.steps = url, prefix, steps

    @asynccontextmanager
    async def corral(self) -> AsyncIterator[Corral]:
        async with Corral(self.url, prefix=self.prefix, job_types=()) as corral:
            self.steps.on(corral)
            yield corral


@pytest.fixture
def steps() -> Steps:
    return Steps()


@pytest.fixture
async def farm(corral_server: EmbeddedServer, corral_prefix: str, steps: Steps) -> Farm:
    made = Farm(corral_server.url, corral_prefix, steps)
    async with made.corral() as corral:
        store = corral.parts.projects
        await store.add(
            Project(id="p", repository="/srv/p.git", default_branch="trunk", test_command="pytest -q"), replace=True
        )
        await store.add(Project(id="untested", repository="/srv/u.git"), replace=True)
    return made


def _asked(**changes: Any) -> dict[str, Any]:
    return {"taskId": "t1", "userId": "u", "projectId": "p", "prompt": "Add a thing\nplease", **changes}


async def _run(farm: Farm, **changes: Any) -> PipelineResult:
    async with farm.corral() as corral:
        await corral.start_workers()
        job = await corral.add_job(PIPELINE, _asked(**changes))
        result: PipelineResult = await corral.wait_for_result(job, timeout=PATIENCE)
        return result


async def test_each_step_is_given_what_the_one_before_found(farm: Farm, steps: Steps) -> None:
    result = await _run(farm)
    index, generate, test, request = steps.given
    assert index == CodebaseIndexing(task_id="t1", user_id="u", project_id="p", branch="trunk")
    assert (generate.commit_id, generate.base_branch, generate.test_command) == (BASE, "trunk", "pytest -q")
    assert (generate.prompt, generate.candidates) == ("Add a thing\nplease", 3)
    assert (test.commit_id, test.test_command) == (COMMIT, "pytest -q")
    assert (request.commit_id, request.source_branch, request.target_branch) == (COMMIT, "corral/t1", "trunk")
    assert (request.title, request.draft) == ("Add a thing", False)
    assert "> Add a thing\n> please" in request.description
    assert "1 of 1 passed" in request.test_summary
    assert (result.pull_request.number, result.commit, result.branch) == (7, COMMIT, "corral/t1")
    assert [step.state for step in result.steps] == [StepState.COMPLETED] * 4


async def test_failing_tests_open_nothing(farm: Farm, steps: Steps) -> None:
    steps.passed = False
    with pytest.raises(JobFailed, match=r"tests fail .*test_thing"):
        await _run(farm)
    assert not any(isinstance(payload, PrCreation) for payload in steps.given)


async def test_failing_tests_open_a_draft_when_asked_to(farm: Farm, steps: Steps) -> None:
    steps.passed = False
    result = await _run(farm, whenTestsFail="draft")
    assert result.pull_request.state is PrState.DRAFT
    assert "Tests fail" in steps.given[-1].test_summary


async def test_a_project_without_tests_gets_a_draft_that_says_so(farm: Farm, steps: Steps) -> None:
    result = await _run(farm, projectId="untested")
    assert result.tests is None
    assert steps.given[-1].draft
    assert "nothing was tested" in steps.given[-1].description
    assert result.steps[2].state is StepState.SKIPPED


async def test_no_change_opens_nothing(farm: Farm, steps: Steps) -> None:
    steps.changed = False
    with pytest.raises(JobFailed, match="changed nothing"):
        await _run(farm)


async def test_indexing_that_fails_costs_the_context_only(farm: Farm, steps: Steps) -> None:
    steps.fail = {JobType.CODEBASE_INDEXING}
    result = await _run(farm)
    assert result.indexing is None
    assert result.steps[0].state is StepState.FAILED
    assert steps.given[1].commit_id is None


async def test_a_step_that_fails_fails_the_pipeline_and_a_retry_goes_on_from_there(farm: Farm, steps: Steps) -> None:
    steps.fail = {JobType.PR_CREATION}
    async with farm.corral() as corral:
        await corral.start_workers()
        job = await corral.add_job(PIPELINE, _asked())
        with pytest.raises(JobFailed, match=r"pr-creation failed: .*told to fail"):
            await corral.wait_for_result(job, timeout=PATIENCE)
        status = await corral.get_job_status(PIPELINE, job.id)
        assert status.attempts == 1, "the step had its own attempts"
        states = [step.state for step in reported_steps(status)]
        assert states == [StepState.COMPLETED] * 3 + [StepState.FAILED]

        steps.fail = set()
        await corral.retry_job(PIPELINE, job.id)
        result = await corral.wait_for_result(job, timeout=PATIENCE)
        assert result.pull_request.number == 7
    kinds = [type(payload) for payload in steps.given]
    assert kinds == [CodebaseIndexing, CodeGeneration, TestExecution, PrCreation, PrCreation]


async def test_a_pipeline_outlives_its_worker(farm: Farm, steps: Steps) -> None:
    steps.hold.clear()
    async with farm.corral() as second:
        async with farm.corral() as first:
            await first.start_workers([PIPELINE])
            await second.start_workers(list(JobType))
            job = await second.add_job(PIPELINE, _asked())
            await steps.held.wait()
            # The worker that holds the pipeline goes; the step, on another worker, goes on.
            await first.stop_workers(timeout=timedelta(0))
        assert not steps.cancelled.is_set()
        steps.hold.set()
        await second.start_workers([PIPELINE])
        result = await second.wait_for_result(job, timeout=PATIENCE)
    assert result.pull_request.number == 7
    assert [type(payload) for payload in steps.given] == [CodebaseIndexing, CodeGeneration, TestExecution, PrCreation]


async def test_cancelling_a_pipeline_cancels_its_running_step(farm: Farm, steps: Steps) -> None:
    steps.hold.clear()
    async with farm.corral() as corral:
        await corral.start_workers()
        job = await corral.add_job(PIPELINE, _asked())
        await steps.held.wait()
        await corral.cancel_job(PIPELINE, job.id, reason="superseded", by="test")
        with pytest.raises(JobCancelled, match="superseded"):
            await corral.wait_for_result(job, timeout=PATIENCE)
        await asyncio.wait_for(steps.cancelled.wait(), PATIENCE.total_seconds())


async def test_a_step_that_somebody_cancels_ends_the_pipeline(farm: Farm, steps: Steps) -> None:
    steps.hold.clear()
    async with farm.corral() as corral:
        await corral.start_workers()
        job = await corral.add_job(PIPELINE, _asked())
        await steps.held.wait()
        (step,) = await corral.list_jobs(JobType.CODE_GENERATION, [JobState.ACTIVE])
        await corral.cancel_job(JobType.CODE_GENERATION, step.id, by="test")
        with pytest.raises(JobFailed, match="code-generation was cancelled"):
            await corral.wait_for_result(job, timeout=PATIENCE)


async def test_an_unknown_project_fails_at_once(farm: Farm, steps: Steps) -> None:
    with pytest.raises(JobFailed, match="no-such"):
        await _run(farm, projectId="no-such")
    assert steps.given == []


async def test_progress_names_the_step_and_its_stage(farm: Farm, steps: Steps) -> None:
    steps.hold.clear()
    async with farm.corral() as corral:
        await corral.start_workers()
        job = await corral.add_job(PIPELINE, _asked())
        await steps.held.wait()
        stage = await _until(
            lambda: corral.get_job_status(PIPELINE, job.id),
            lambda status: (status.progress_detail or {}).get("stage") == "code-generation: asking",
        )
        assert 15 < stage.progress < 75
        running = [step.job_type for step in reported_steps(stage) if step.state is StepState.RUNNING]
        assert running == [JobType.CODE_GENERATION]
        steps.hold.set()
        await corral.wait_for_result(job, timeout=PATIENCE)


async def _until(look: Callable[[], Awaitable[Any]], fits: Callable[[Any], bool]) -> Any:
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            seen = await look()
            if fits(seen):
                return seen
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("missing", ["taskId", "userId", "projectId", "prompt"])
async def test_a_payload_without_what_is_needed_is_refused(farm: Farm, missing: str) -> None:
    async with farm.corral() as corral:
        with pytest.raises(ValueError, match=missing):
            await corral.add_job(PIPELINE, {name: value for name, value in _asked().items() if name != missing})
        with pytest.raises(JobNotFound):
            await corral.get_job_status(PIPELINE, "1")
