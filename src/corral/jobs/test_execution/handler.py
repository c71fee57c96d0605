"""The handler of test-execution jobs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from corral.errors import Unrecoverable
from corral.jobs.test_execution.comparison import Baselines, compare
from corral.jobs.test_execution.output import LogLines
from corral.jobs.test_execution.payload import TestExecution
from corral.jobs.test_execution.report import RunEnding, TestReport
from corral.jobs.test_execution.runner import Progress, TestRunner
from corral.projects import Project
from corral.queue.job import Job

_CHECKED_OUT, _TESTED = 5.0, 95.0


class Checkout(Protocol):
    """A worktree, as this handler needs it."""

    path: Path
    commit: str

    async def apply_patch(self, patch: str) -> None:
        """Apply a unified diff, all of it or nothing."""
        ...


class Checkouts(Protocol):
    """Gives worktrees: ``corral.adapters.workspace.Workspaces``."""

    def checkout(self, project: Project, rev: str | None = None) -> AbstractAsyncContextManager[Checkout]:
        """A worktree of its own, removed at the end of the block."""
        ...

    async def resolve(self, project: Project, rev: str | None = None) -> str:
        """Full hash of what a revision names."""
        ...


class Projects(Protocol):
    """Finds registered projects: ``corral.projects.ProjectStore``."""

    async def get(self, project_id: str) -> Project:
        """The project of an id."""
        ...


class TestExecutionHandler:
    """Runs a project's tests at one commit and says what happened."""

    __test__ = False

    def __init__(
        self,
        *,
        projects: Projects,
        workspaces: Checkouts,
        runner: TestRunner,
        baselines: Baselines | None = None,
        timeout: timedelta = timedelta(minutes=5),
    ) -> None:
        """Make the handler.

        Args:
            projects: The registered projects.
            workspaces: Where worktrees come from.
            runner: Runs the tests.
            baselines: Keeps reports of whole commits for comparisons; None tests the base commit each time.
            timeout: Longest phase of a job that does not say.
        """
        self._projects = projects
        self._workspaces = workspaces
        self._runner = runner
        self._baselines = baselines
        self._timeout = timeout

    async def __call__(self, job: Job[TestExecution]) -> TestReport:
        """Run one job.

        Returns:
            The report; failed tests are a report with ``passed`` false.

        Raises:
            UnknownProject: No such project.
            Unrecoverable: The tests could not be run: ``commit_not_found``, ``branch_not_found``,
                ``patch_does_not_apply``, ``files_invalid``, ``setup_failed``, ``command_not_found``,
                ``no_tests_collected``, ``tests_not_run``.
            GitFailed: The repository can't be fetched.
            SandboxUnavailable: There is no sandbox on this worker's machine.
            SandboxFailed: The sandbox failed.

        Effects:
            The job's log and progress; the cache of dependencies, kept artifacts and baselines.

        Safe to repeat:
            Each run has a worktree and a sandbox of its own, both gone at its end; caches are keyed by content.
        """
        data = job.data
        project = await self._projects.get(data.project_id)
        await job.progress({"percent": 0, "stage": "checkout"})
        async with self._workspaces.checkout(project, data.commit_id or data.branch) as workspace:
            if data.patch:
                await workspace.apply_patch(data.patch)
            await job.progress({"percent": _CHECKED_OUT, "stage": "test"})
            report = await self._test(job, project, workspace)
        if data.compare_to is not None:
            await job.progress({"percent": _TESTED, "stage": "compare"})
            report = await self._compared(job, project, report)
        await job.progress({"percent": 100, "stage": "done"})
        return report

    async def _test(self, job: Job[TestExecution], project: Project, workspace: Checkout) -> TestReport:
        data = job.data
        key = None if data.patch else await self._key(data, project, workspace.commit)

        async def on_output(lines: list[str]) -> None:
            await job.log(*lines)

        async def on_progress(ended: int, expected: int | None) -> None:
            # Where the number of cases isn't known, it comes nearer and nearer to the end and never gets there.
            share = min(1.0, ended / expected) if expected else ended / (ended + 20)
            percent = round(_CHECKED_OUT + share * (_TESTED - _CHECKED_OUT), 1)
            await job.progress({"percent": percent, "stage": "test", "cases": ended, "of": expected})

        report = await self._run(data, project, workspace, on_output=on_output, on_progress=on_progress)
        if key is not None and self._baselines is not None and report.ending is RunEnding.EXITED:
            await self._baselines.put(key, report)
        return report

    async def _key(self, data: TestExecution, project: Project, commit: str) -> str | None:
        if self._baselines is None:
            return None
        return self._baselines.key(
            project_id=project.id,
            commit=commit,
            command=data.test_command,
            files=data.files,
            setup_command=data.setup_command or project.setup_command,
            env=data.env,
            limits=data.limits,
            environment=await self._runner.environment(),
        )

    async def _compared(self, job: Job[TestExecution], project: Project, report: TestReport) -> TestReport:
        commit = await self._workspaces.resolve(project, job.data.compare_to)
        key = await self._key(job.data, project, commit)
        base = await self._baselines.get(key) if self._baselines is not None and key is not None else None
        if base is None:
            await job.log(f"[testing {commit[:12]} for the comparison]")
            data = job.data.model_copy(update={"patch": None})
            try:
                async with self._workspaces.checkout(project, commit) as workspace:
                    base = await self._run(data, project, workspace)
            except Unrecoverable as error:
                # Nothing to compare with says nothing against the change.
                await job.log(f"[{commit[:12]} can't be tested: {error}]")
                return report
            if key is not None and self._baselines is not None and base.ending is RunEnding.EXITED:
                await self._baselines.put(key, base)
        if base.ending is not RunEnding.EXITED:
            await job.log(f"[the run of {commit[:12]} did not end by itself ({base.ending}): nothing to compare with]")
            return report
        return compare(base, report)

    async def _run(
        self,
        data: TestExecution,
        project: Project,
        workspace: Checkout,
        *,
        on_output: LogLines | None = None,
        on_progress: Progress | None = None,
    ) -> TestReport:
        return await self._runner.run(
            workspace.path,
            command=data.test_command,
            commit=workspace.commit,
            project_id=project.id,
            timeout=self._timeout if data.timeout_ms is None else timedelta(milliseconds=data.timeout_ms),
            files=data.files,
            setup_command=data.setup_command or project.setup_command,
            env=data.env,
            limits=data.limits,
            network=data.network,
            reruns=data.reruns,
            on_output=on_output,
            on_progress=on_progress,
        )
