"""The handler of code-generation jobs."""

from __future__ import annotations

import asyncio
import contextlib
import time

from corral.adapters.cleanup import heed_cancellation, see_through
from corral.adapters.llm.budgets import Allowance, Budgets
from corral.adapters.llm.redis_client import RedisClient
from corral.errors import LlmFailed, Unrecoverable
from corral.jobs.code_generation.agent import AgentLoop
from corral.jobs.code_generation.candidates import Outcome
from corral.jobs.code_generation.journal import Journal
from corral.jobs.code_generation.local_workflow import LocalWorkflow
from corral.jobs.code_generation.news import News
from corral.jobs.code_generation.parts import (
    CodeSearchLike,
    OpenModel,
    ProjectLike,
    ProjectsLike,
    RunsTests,
    WorkspaceLike,
    WorkspacesLike,
)
from corral.jobs.code_generation.payload import CodeGeneration
from corral.jobs.code_generation.result import (
    ChangedFile,
    CodeGenerationResult,
    EndReason,
    FileStatus,
    TokenCount,
)
from corral.jobs.code_generation.session import Refused, Session
from corral.jobs.code_generation.worktree import Worktree
from corral.queue.job import Job
from corral.settings import Settings

_LARGEST_DIFF = 1_000_000
_STATUS = {status.value: status for status in FileStatus}


class CodeGenerationHandler:
    """Turns a prompt into a commit on the branch ``corral/<taskId>``.

    Effects:
        One commit on that branch in the worker's mirror and in the commit store, made at the very end; nothing before.
    Safe to repeat:
        A repeated job finds its finished steps in the journal, and its commit replaces the branch's earlier one.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        projects: ProjectsLike,
        workspaces: WorkspacesLike,
        open_model: OpenModel,
        tests: RunsTests | None = None,
        search: CodeSearchLike | None = None,
        redis: RedisClient | None = None,
        prefix: str = "corral",
        budgets: Budgets | None = None,
    ) -> None:
        """Take the parts.

        Args:
            settings: Defaults of model, budgets, author and time-outs.
            projects: Where projects are registered.
            workspaces: Gives the job its worktree.
            open_model: From a name to a model; wrap it in ``CachedModel`` for the response cache.
            tests: The sandboxed runner; None leaves changes unjudged.
            search: The code index, when there is one.
            redis: Keeps finished steps; None starts each attempt anew.
            prefix: Start of their keys.
            budgets: The ledger; None is no budget but the job's time.
        """
        self._settings = settings
        self._projects = projects
        self._workspaces = workspaces
        self._open_model = open_model
        self._tests = tests
        self._search = search
        self._redis = redis
        self._prefix = prefix
        self._budgets = budgets

    async def __call__(self, job: Job[CodeGeneration]) -> CodeGenerationResult:
        """Do one job.

        Raises:
            UnknownProject: The project is not registered.
            LlmFailed: No model could answer; ``retry_after`` pauses the queue.
            ModelUnavailable: The model can't be used on this worker.
        """
        started = time.monotonic()
        task = job.data
        news = News(job)
        await news.progress(0, "checkout")
        project: ProjectLike = await self._projects.get(task.project_id)
        journal = await self._journal(job, news)
        async with contextlib.AsyncExitStack() as stack:
            workspace = await self._checkout(job, project, journal, stack)
            await journal.begin(workspace.commit)
            session = self._session(job, news, project, workspace, journal)
            outcome = await self._work(session)
            try:
                result = await self._finish(session, workspace, outcome, started)
                await stack.aclose()  # here, as it may be cancelled there too
                await journal.finish()
                await news.progress(100, "done")
                heed_cancellation()
            except BaseException:
                # No job without a result has a branch.
                await see_through(workspace.take_back())
                raise
        return result

    async def _journal(self, job: Job[CodeGeneration], news: News) -> Journal:
        task = job.data
        journal = Journal(
            self._redis,
            key=Journal.key_for(
                prefix=self._prefix,
                project_id=task.project_id,
                task_id=task.task_id,
                payload=f"{task.model_dump_json()}\n{self._settings.model}",
            ),
            tell=news.log,
        )
        await journal.open(again=job.starts > 1)
        return journal

    async def _checkout(
        self, job: Job[CodeGeneration], project: ProjectLike, journal: Journal, stack: contextlib.AsyncExitStack
    ) -> WorkspaceLike:
        async def enter(rev: str | None) -> WorkspaceLike:
            workspace: WorkspaceLike = await stack.enter_async_context(self._workspaces.checkout(project, rev))
            return workspace

        if job.starts > 1 and journal.base is not None:
            # The branch may have moved on since the steps were paid for.
            with contextlib.suppress(Unrecoverable):  # it is not there any more: then they are worth nothing
                return await enter(journal.base)
        return await enter(job.data.commit_id or job.data.base_branch)

    def _session(
        self,
        job: Job[CodeGeneration],
        news: News,
        project: ProjectLike,
        workspace: WorkspaceLike,
        journal: Journal,
    ) -> Session:
        task, settings = job.data, self._settings
        seconds = task.budget.seconds
        return Session(
            job=job,
            news=news,
            worktree=Worktree(workspace.path),
            base=workspace.commit,
            models=[task.model or settings.model, *task.fallback_models],
            open_model=self._open_model,
            budgets=self._budgets,
            allowance=Allowance(
                tokens=task.budget.tokens or settings.job_tokens, usd=task.budget.usd or settings.job_usd
            ),
            deadline=asyncio.get_running_loop().time() + seconds if seconds is not None else None,
            journal=journal,
            tests=self._tests,
            test_command=task.test_command or project.test_command,
            setup_command=project.setup_command,
            test_timeout=settings.test_timeout,
            search=self._search,
        )

    async def _work(self, session: Session) -> Outcome:
        try:
            model = await session.model()
            if model.traits.tools:
                return await AgentLoop(session).run()
            return await LocalWorkflow(session).run()
        except Refused as refusal:
            session.files.restore()
            session.account.edits = []
            return Outcome(ended=EndReason.REFUSED, summary=str(refusal) or "The model refused.")
        except LlmFailed:
            session.files.restore()
            raise

    async def _finish(
        self, session: Session, workspace: WorkspaceLike, outcome: Outcome, started: float
    ) -> CodeGenerationResult:
        task, account = session.task, session.account
        await session.news.progress(96, "commit")
        model = await session.model()
        diff, commit, branch = "", None, None
        files: tuple[ChangedFile, ...] = ()
        ended = outcome.ended
        changes = await workspace.changes() if session.files.changed() else ()
        if changes:
            diff = await workspace.diff()
            files = tuple(
                ChangedFile(
                    path=change.path,
                    status=_STATUS.get(str(change.status), FileStatus.MODIFIED),
                    lines_added=change.lines_added,
                    lines_removed=change.lines_removed,
                )
                for change in changes
            )
            branch = f"corral/{task.task_id}"
            commit = await workspace.commit_all(
                branch=branch,
                message=_message(task.prompt, outcome.summary),
                author=self._settings.commit_author,
                trailers={**self._settings.commit_trailers, "Task": task.task_id, "Model": model.name},
            )
        elif ended in {EndReason.FINISHED, EndReason.TESTS_PASS}:
            ended = EndReason.NO_CHANGE
        return CodeGenerationResult(
            task_id=task.task_id,
            project_id=task.project_id,
            ended=ended,
            partial=outcome.partial,
            branch=branch,
            commit=commit,
            base=session.base,
            diff=diff[:_LARGEST_DIFF],
            diff_cut=len(diff) > _LARGEST_DIFF,
            files=files,
            summary=outcome.summary,
            steps=tuple(account.steps),
            edits=tuple(account.edits),
            tests_before=outcome.tests_before,
            tests_after=outcome.tests_after,
            examples=account.examples if commit is not None else None,
            model=model.name,
            models_failed=account.models_failed,
            tokens=TokenCount(
                input=account.usage.input_tokens,
                output=account.usage.output_tokens,
                cached_input=account.usage.cached_input_tokens,
            ),
            cost_usd=account.usage.usd,
            requests=account.requests,
            cache_hits=account.cache_hits,
            candidates_tried=account.candidates,
            repairs=account.repairs,
            resumed_steps=session.journal.resumed,
            seconds=round(time.monotonic() - started, 3),
        )


def _message(prompt: str, summary: str) -> str:
    first = " ".join(prompt.split())
    title = first if len(first) <= _TITLE_LENGTH else first[: _TITLE_LENGTH - 1].rsplit(" ", 1)[0] + "…"
    return f"{title}\n\n{summary}".strip() + "\n"


_TITLE_LENGTH = 72
