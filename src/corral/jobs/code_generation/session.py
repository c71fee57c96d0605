"""One attempt at one job: everything the workflows do to the outside goes through here.

It asks the model (budgets, fallback, journal, log), runs the tests (journal), holds the files (``changes``), and keeps
the account that becomes the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from pydantic import BaseModel, ConfigDict, TypeAdapter

from corral.adapters.llm.budgets import Allowance, Budgets, BudgetUsedUp, Exceeded, Reservation, most_of
from corral.adapters.llm.port import LanguageModel, ModelAnswer, ModelRequest, Usage
from corral.adapters.llm.request_hash import request_hash
from corral.errors import ConfigurationError, LlmFailed, SearchFailed, Unrecoverable
from corral.jobs.code_generation.changes import Changes
from corral.jobs.code_generation.examples import Examples
from corral.jobs.code_generation.journal import Journal
from corral.jobs.code_generation.log_stream import LogStream
from corral.jobs.code_generation.news import News
from corral.jobs.code_generation.parts import CodeSearchLike, OpenModel, RunsTests, SearchHitLike
from corral.jobs.code_generation.payload import CodeGeneration
from corral.jobs.code_generation.report_text import describe
from corral.jobs.code_generation.result import AppliedEdit, ExampleCount, Step
from corral.jobs.code_generation.tree_copy import copy_of
from corral.jobs.code_generation.worktree import Worktree
from corral.jobs.test_execution.report import TestReport
from corral.queue.job import Job

_LASTING = frozenset({"quota_exceeded", "authentication", "model_not_found", "rejected"})
"""Failures of one model that another may not have, and that waiting does not mend."""
_NOTHING_RAN = frozenset({"no_tests_collected", "tests_not_run"})
"""Reasons of a test run that never reached a test case."""
_RUNS_EXAMPLES = "python3 -m unittest"
"""Where the project has no test command."""
_LONGEST_EXAMPLES = timedelta(minutes=2)
_CHARACTERS_PER_TOKEN = 3.2
"""Of code, on the safe side, for models whose tokenizer isn't at hand."""


class _Failure(BaseModel):
    """A model's failure, as a step that is recorded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    failed: str
    """``LlmFailed.reason``."""
    why: str


_OUTCOME: TypeAdapter[ModelAnswer | _Failure] = TypeAdapter(ModelAnswer | _Failure)
_TOO_LONG = "context_length"
"""A failure that the caller mends by asking for less."""


class Refused(Exception):
    """The model would not do it; the message is what it said."""


@dataclass(frozen=True, kw_only=True)
class CodeHit:
    """One answer of the code index."""

    path: str
    start_line: int
    end_line: int
    symbol: str | None
    score: float
    text: str


@dataclass
class Account:
    """What the job did so far."""

    steps: list[Step] = field(default_factory=list)
    edits: list[AppliedEdit] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    requests: int = 0
    cache_hits: int = 0
    examples: ExampleCount | None = None
    repairs: int = 0
    candidates: int = 1
    models_failed: dict[str, str] = field(default_factory=dict)


class Session:
    """See the module."""

    def __init__(
        self,
        *,
        job: Job[CodeGeneration],
        news: News,
        worktree: Worktree,
        base: str,
        models: list[str],
        open_model: OpenModel,
        budgets: Budgets | None,
        allowance: Allowance,
        deadline: float | None,
        journal: Journal,
        tests: RunsTests | None,
        test_command: str | None,
        setup_command: str | None,
        test_timeout: timedelta,
        search: CodeSearchLike | None,
    ) -> None:
        self.job = job
        self.task = job.data
        self.news = news
        self.worktree = worktree
        self.files = Changes(worktree)
        self.base = base
        self.test_command = test_command if tests is not None else None
        self.account = Account()
        self.journal = journal
        self._models = models
        self._open_model = open_model
        self._model: LanguageModel | None = None
        self._budgets = budgets
        self._allowance = allowance
        self._deadline = deadline
        self._tests = tests
        self._setup_command = setup_command
        self._test_timeout = test_timeout
        self._search = search

    # --- telling

    def note(self, kind: str, detail: str, started: float) -> None:
        """Write a step down."""
        self.account.steps.append(Step(kind=kind, detail=detail, seconds=round(time.monotonic() - started, 3)))

    # --- the model

    async def model(self) -> LanguageModel:
        """The model in use."""
        while self._model is None:
            try:
                self._model = await self._open_model(self._models[0])
            except ConfigurationError as error:
                if len(self._models) == 1:
                    raise
                await self._give_up_on(self._models[0], str(error))
        return self._model

    async def ask(self, request: ModelRequest, *, purpose: str) -> ModelAnswer:
        """One answer, from the journal, the cache or the provider.

        Raises:
            BudgetUsedUp: Checked before each call.
            LlmFailed: Nobody left who could answer; ``context_length`` is for the caller to mend.
        """
        started = time.monotonic()
        while True:
            model = await self.model()
            question = request_hash(model.name, request, with_native=False)
            told, resumed = await self.journal.step("ask", question, partial(self._outcome, model, request))
            outcome = _OUTCOME.validate_json(told)
            if isinstance(outcome, ModelAnswer):
                answer = outcome
                break
            if outcome.failed == _TOO_LONG:
                raise LlmFailed(
                    outcome.why, service=model.name, operation="complete", retryable=False, reason=_TOO_LONG
                )
            await self._give_up_on(model.name, outcome.why)
        self.account.requests += 1
        if answer.from_cache:
            self.account.cache_hits += 1
        else:
            self.account.usage += answer.usage
        if not resumed:
            for call in answer.tool_calls:
                await self.news.log(f"→ {call.name} {call.arguments[:500]}")
        self.note("ask", f"{purpose}: {answer.model}{' (resumed)' if resumed else ''}", started)
        return answer

    async def _outcome(self, model: LanguageModel, request: ModelRequest) -> str:
        """The answer, or the failure that decides what is asked next: without it, the next attempt would ask anew."""
        try:
            answer = await self._call(model, request)
        except LlmFailed as error:
            last_attempt = self.job.attempt >= self.job.max_attempts
            lasting = error.reason in _LASTING or (error.retryable and error.retry_after is None and last_attempt)
            if error.reason != _TOO_LONG and (len(self._models) == 1 or not lasting):
                raise
            return _Failure(failed=error.reason, why=str(error)).model_dump_json()
        return answer.model_dump_json()

    async def _call(self, model: LanguageModel, request: ModelRequest) -> ModelAnswer:
        self._check_budget()
        log = LogStream(self.news.log)
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout_at(self._deadline):
                    room = await self._reserve(model, request, stack)
                    answer = await model.complete(request, on_text=log.write)
            except TimeoutError:
                raise BudgetUsedUp(self._out_of_time()) from None
            finally:
                with contextlib.suppress(Exception):  # the log must not hide how the call ended
                    await log.close()
            if room is not None and not answer.from_cache:
                await room.settle(answer.usage)
        return answer

    async def _reserve(
        self, model: LanguageModel, request: ModelRequest, stack: contextlib.AsyncExitStack
    ) -> Reservation | None:
        if self._budgets is None:
            return None
        reserving = self._budgets.reserve(
            job_id=self._spender,
            user_id=self.task.user_id,
            job=self._allowance,
            most=most_of(request, model.traits),
            on_wait=self.news.log,
        )
        return await stack.enter_async_context(reserving)

    def _check_budget(self) -> None:
        """What needs no ledger: the clock, and what this attempt has spent or taken from the journal."""
        if self._deadline is not None and asyncio.get_running_loop().time() >= self._deadline:
            raise BudgetUsedUp(self._out_of_time())
        spent = self.account.usage
        for unit, allowed, used in (
            ("tokens", self._allowance.tokens, spent.tokens),
            ("usd", self._allowance.usd, spent.usd or 0.0),
        ):
            if allowed is not None and used >= allowed:
                raise BudgetUsedUp(Exceeded(scope="job", unit=unit, allowed=allowed, used=used))

    def _out_of_time(self) -> Exceeded:
        seconds = self.task.budget.seconds or 0.0
        return Exceeded(scope="job", unit="seconds", allowed=seconds, used=seconds)

    @property
    def _spender(self) -> str:
        # The job's own id is reused when a finished job is added again; the task with it is the job that people mean.
        return f"{self.task.project_id}:{self.task.task_id}:{self.job.id}"

    async def _give_up_on(self, name: str, why: str) -> None:
        self.account.models_failed[name] = why
        await self.news.log(f"{name} can't do it ({why}); going on with {self._models[1]}")
        self._models = self._models[1:]
        self._model = None

    # --- the code index

    async def find_code(self, query: str, *, limit: int) -> list[CodeHit]:
        """The best places for a question; nothing when there is no index."""
        if self._search is None:
            return []
        ask = partial(self._search.search, self.task.project_id, query, limit=limit)
        return await self._look(f"{query}\n{limit}", ask)

    async def context(self, query: str, *, max_tokens: int) -> list[CodeHit]:
        """What of the index belongs to a task, within a budget of tokens; nothing when there is no index."""
        if self._search is None:
            return []
        ask = partial(self._search.context, self.task.project_id, query, max_tokens=max_tokens)
        return await self._look(f"{query}\ncontext {max_tokens}", ask)

    async def _look(self, question: str, ask: Callable[[], Awaitable[Sequence[SearchHitLike]]]) -> list[CodeHit]:
        async def look() -> str:
            try:
                hits = await ask()
            except SearchFailed as error:
                await self.news.log(f"code search: {error}")
                return "[]"
            return json.dumps(
                [[hit.path, hit.start_line, hit.end_line, hit.symbol, round(hit.score, 4), hit.text] for hit in hits]
            )

        told, _ = await self.journal.step("search", question, look)
        return [
            CodeHit(path=path, start_line=start, end_line=end, symbol=symbol, score=score, text=text)
            for path, start, end, symbol, score, text in json.loads(told)
        ]

    # --- tests

    async def run_tests(self, *, stage: str) -> TestReport | None:
        """What the tests say now; None without a test command."""
        if self._tests is None or self.test_command is None:
            return None
        started = time.monotonic()
        run = partial(self._run, self._tests, self.test_command, timeout=self._test_timeout)
        told, _ = await self.journal.step("tests", f"{self.test_command}\n{self.files.digest()}", run)
        report = TestReport.model_validate_json(told)
        self.note("check", f"{stage}: {describe(report)}", started)
        await self.news.log(f"tests ({stage}): {describe(report)}")
        return report

    @property
    def can_run_examples(self) -> bool:
        """Whether there is a sandbox for them."""
        return self._tests is not None

    async def run_examples(self, examples: Examples, *, stage: str) -> TestReport:
        """What the examples say now, by the project's own runner where it has one."""
        if self._tests is None:
            raise ConfigurationError("examples need the sandbox of test-execution jobs")
        started = time.monotonic()
        command = self.test_command or _RUNS_EXAMPLES
        timeout = min(self._test_timeout, _LONGEST_EXAMPLES)
        run = partial(self._run, self._tests, command, timeout=timeout, examples=examples)
        told, _ = await self.journal.step("examples", f"{command}\n{examples.text}\n{self.files.digest()}", run)
        report = TestReport.model_validate_json(told)
        said = f"{len(examples.holding(report))} of {len(examples.statements)} examples hold"
        self.note("check", f"{stage}: {said}", started)
        await self.news.log(f"examples ({stage}): {said}")
        return report

    async def _run(
        self, tests: RunsTests, command: str, *, timeout: timedelta, examples: Examples | None = None
    ) -> str:
        async with copy_of(self.worktree.root) as copy:
            if examples is not None:
                # By the guarded way: a folder of the repository may be a link.
                Worktree(copy).write(examples.path, examples.text.encode())
            try:
                report = await tests.run(
                    copy,
                    command=command,
                    commit=self.base,
                    setup_command=self._setup_command,
                    timeout=timeout,
                    project_id=self.task.project_id,
                    files=() if examples is None else (examples.path,),
                )
            except Unrecoverable as error:
                if error.reason not in _NOTHING_RAN:
                    raise
                # The model may mend it: a change can break the import that all tests need, or add the first test.
                report = TestReport(
                    passed=False, runner="command", command=command, commit=self.base, output_tail=str(error)
                )
        return report.model_dump_json(by_alias=True)


def tokens_of(text: str) -> int:
    """Roughly how many tokens a text takes, on the safe side."""
    return int(len(text) / _CHARACTERS_PER_TOKEN) + 1
