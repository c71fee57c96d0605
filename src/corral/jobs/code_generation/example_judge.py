"""Where no test speaks of the change, the model's own examples judge it.

They are asked for once, before any answer is looked at by them, and from the task and the file as it was: examples
that were written with an answer in sight would only repeat its mistakes. Those that held before the change say nothing
of it and are left out. They may be wrong, so they never decide whether a change is kept, only which one.
"""

from __future__ import annotations

import builtins
import re
import time

from corral.adapters.llm.port import Finish, Message, ModelRequest, Role
from corral.errors import LlmFailed
from corral.jobs.code_generation.candidates import Candidate, Candidates
from corral.jobs.code_generation.context import mentioned_names
from corral.jobs.code_generation.definitions import defined_classes, outline
from corral.jobs.code_generation.examples import Examples, read_examples
from corral.jobs.code_generation.result import ExampleCount
from corral.jobs.code_generation.session import Session, tokens_of
from corral.jobs.code_generation.worktree import PathRefusedError
from corral.jobs.test_execution.report import TestReport

_ANSWER_TOKENS = 400
_LONGEST_FILE_TOKENS = 3000
_MOST_NAMES = 4
_SYSTEM = "You write tests. Answer with one fenced code block. No explanation."
_ASK = (
    "Before anybody does the task, write its tests: five to eight different lines `assert call(values) == result`"
    "{about}, each with literal values and the result that the task asks for. Cover each thing that the task says, and"
    " its edge cases."
)
_ASK_FOR_ERRORS = " Where the task asks for an error, write `with self.assertRaises(Error): call(values)`."
_SPEAKS_OF_ERRORS = re.compile(r"\b(rais\w+|\w*errors?|exceptions?|refus\w+|reject\w*|invalid)\b", re.IGNORECASE)
_MOST_SHOWN = 6
_FOR_THE_QUESTION = (
    "Examples of what has to hold then (one of them may be wrong; the task decides):\n```python\n{examples}\n```"
)
_COMPLAINT = (
    "These examples, written from the task, do not hold with your code (one of them may be wrong itself; the task"
    " decides):\n\n{examples}"
)


class ExampleJudge:
    """See the module."""

    def __init__(self, session: Session, candidates: Candidates, before: TestReport | None) -> None:
        self._session = session
        self._candidates = candidates
        self._before = before
        self._examples: Examples | None = None
        self._telling: frozenset[int] | None = None
        """Of the examples: those that did not hold before the change; None until they were asked for."""

    def is_needed(self, target: str) -> bool:
        """Whether the tests say nothing of the change, and there is something left to choose from."""
        task = self._session.task
        if not target.endswith(".py") or not self._session.can_run_examples:
            return False
        # A change that mends failing tests is judged by them.
        return (self._before is None or self._before.passed) and (task.candidates > 1 or task.max_repairs > 0)

    @property
    def for_the_question(self) -> str:
        """The examples as a part of the next question; empty before there are any."""
        if self._examples is None or not self._telling:
            return ""
        told = [self._examples.statements[number] for number in sorted(self._telling)][:_MOST_SHOWN]
        return _FOR_THE_QUESTION.format(examples="\n".join(told))

    async def complaint(self, candidate: Candidate, *, target: str, source: str, stage: str) -> str | None:
        """Weigh a candidate by the examples.

        Args:
            candidate: What the tests have nothing against; its files are in place.
            target: The file that the task is about.
            source: That file before the change.
            stage: What is being judged, in words.

        Returns:
            What a model should know to do better; None when there is nothing to say against it.
        """
        session = self._session
        if self._telling is None:
            await self._write(target, source)
            session.files.restore(candidate.files)
        if self._examples is None or not self._telling:
            return None
        report = await session.run_examples(self._examples, stage=stage)
        holding = self._examples.holding(report) & self._telling
        self._candidates.weigh(candidate, holding)
        best = self._candidates.best
        if best is not None and best.examples is not None:
            session.account.examples = ExampleCount(written=len(self._telling), holding=len(best.examples))
        if holding == self._telling:
            return None
        return _COMPLAINT.format(examples=self._examples.complaints(report, self._telling))

    async def _write(self, target: str, source: str) -> None:
        """Ask for the examples, and see which of them tell of the change."""
        session = self._session
        self._telling = frozenset()
        session.files.restore()
        started = time.monotonic()
        try:
            answer = await session.ask(self._request(target, source), purpose="examples")
        except LlmFailed as error:
            if error.reason != "context_length":
                raise
            await session.news.log(f"no examples: {error}")
            return
        if answer.finish is Finish.REFUSAL:
            return
        about, imported = self._names(source)
        self._examples = read_examples(answer.text, files=session.worktree.files(), about={*about, *imported})
        if self._examples is None:
            session.note("look", "no usable examples came", started)
            return
        try:
            before = await session.run_examples(self._examples, stage="before")
        except PathRefusedError as error:
            session.note("look", f"the examples have no place: {error}", started)
            return
        everything = frozenset(range(len(self._examples.statements)))
        if any(case.name for case in before.cases):
            self._telling = everything - self._examples.holding(before)

    def _request(self, target: str, source: str) -> ModelRequest:
        prompt = self._session.task.prompt
        about, imported = self._names(source)
        shown = source if tokens_of(source) <= _LONGEST_FILE_TOKENS else outline(source, prompt)
        ask = _ASK.format(about=f" about {', '.join(f'`{name}`' for name in about)}" if about else "")
        if _SPEAKS_OF_ERRORS.search(prompt):
            ask += _ASK_FOR_ERRORS
        if imported:
            # A model that is shown the first line keeps to it; left alone, it tests what it sees in the file.
            ask += f" Begin with `from {_module(target)} import {', '.join(imported)}`."
        text = f"File `{target}` as it is now:\n```python\n{shown}```\n\nTask: {prompt.strip()}\n\n{ask}"
        return ModelRequest(
            system=_SYSTEM, messages=(Message(role=Role.USER, text=text),), max_tokens=_ANSWER_TOKENS, temperature=0.0,
            seed=1,
        )  # fmt: skip

    def _names(self, source: str) -> tuple[list[str], list[str]]:
        """What the examples are about, and what of it they import."""
        prompt = self._session.task.prompt
        words = set(re.findall(r"\w+", prompt))
        about = [name for name in mentioned_names(prompt) if not hasattr(builtins, name)][:_MOST_NAMES]
        classes = sorted(defined_classes(source) & words)
        # What is new beside a class that the task names is a part of that class.
        return about, classes or about


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").removeprefix("src/").replace("/", ".")
