"""The fixed way of a small model: choose the file, write the definitions, let the tests judge, repair, try again.

A model of a few billion parameters neither calls tools nor quotes a file back reliably, but writes one function well
when it sees the file, the tests and the task. So everything else is done here: the file is chosen from the prompt and
the code index, the answer's definitions are merged by name, the tests decide, and several candidates are cheap.
"""

from __future__ import annotations

import re
import time
from pathlib import PurePosixPath

from corral.adapters.llm.budgets import BudgetUsedUp
from corral.adapters.llm.port import Finish, Message, ModelAnswer, ModelRequest, Role
from corral.errors import LlmFailed
from corral.jobs.code_generation.candidates import Candidate, Candidates, Outcome
from corral.jobs.code_generation.context import (
    instructions_of,
    is_test,
    mentioned_names,
    mentioned_paths,
    relevant_tests,
    target_file,
    text_of,
)
from corral.jobs.code_generation.definitions import (
    CannotMergeError,
    defined_names,
    merge_definitions,
    outline,
    without_definitions,
    without_imports,
)
from corral.jobs.code_generation.example_judge import ExampleJudge
from corral.jobs.code_generation.fences import blocks_of, code_of, has_elision
from corral.jobs.code_generation.report_text import failing, failure_digest
from corral.jobs.code_generation.result import AppliedEdit, EndReason
from corral.jobs.code_generation.session import Refused, Session, tokens_of
from corral.jobs.code_generation.source_text import NotTextError, SourceText, split_lines
from corral.jobs.code_generation.worktree import PathRefusedError
from corral.jobs.test_execution.report import TestReport

_ANSWER_TOKENS = 1024
_LATER_TEMPERATURE = 0.8
_MOST_RELATED = 3
_TAKES_AWAY = re.compile(r"\b(rename|remove|delete|drop|move)s?\b", re.IGNORECASE)
_SYSTEM = "You are an expert programmer who changes an existing code base. "
_ONE_FILE = (
    "Answer with one fenced code block that holds only the new or changed definitions, each complete, and the imports "
    "that they need."
)
_SEVERAL_FILES = (
    "Answer with one fenced code block for each file that you change: its first line is a comment with the file's path,"
    " then only the new or changed definitions, each complete, and the imports that they need."
)
_AT_ONCE = " No explanation."
_THINK_FIRST = (
    " Before the code, list what the task asks for: a short line for each requirement and each edge case, with what has"
    " to come out."
)
_REPAIR = "Say in one line what is wrong, then write the corrected code, complete."
_SYSTEM_WHOLE_FILE = (
    f"{_SYSTEM}Answer with one fenced code block that holds the "
    "whole new content of the file, nothing left out. No explanation."
)


class LocalWorkflow:
    """See the module."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._before: TestReport | None = None
        self._examples: ExampleJudge | None = None
        self._judged: set[str] = set()
        """Changes that the tests have spoken about: a small model often gives one answer twice."""

    async def run(self) -> Outcome:
        """Do it; the session's files are the best candidate's at the end."""
        session = self._session
        await session.news.progress(5, "tests before the change")
        self._before = await session.run_tests(stage="before")
        candidates = Candidates(session, self._before)
        self._examples = ExampleJudge(session, candidates, self._before)
        await session.news.progress(15, "looking")
        target = await self._choose()
        ended: EndReason | None = None
        try:
            for number in range(1, session.task.candidates + 1):
                session.account.candidates = number
                await session.news.log(f"candidate {number} of {session.task.candidates}: {target}")
                if await self._try(target, number, candidates):
                    break
        except BudgetUsedUp as used_up:
            await session.news.log(str(used_up))
            ended = EndReason.BUDGET
        return candidates.conclude(ended)

    async def _choose(self) -> str:
        session = self._session
        started = time.monotonic()
        hits = await session.find_code(session.task.prompt[:1000], limit=10)
        target = target_file(
            prompt=session.task.prompt,
            given=session.task.files,
            files=session.worktree.files(),
            found=[hit.path for hit in hits],
        )
        session.note("look", f"{target} is the file to change", started)
        return target

    # --- one candidate

    async def _try(self, target: str, number: int, candidates: Candidates) -> bool:
        session = self._session
        session.files.restore()
        session.account.edits = []
        original = self._source(target)
        by_definition = target.endswith(".py")
        outlined = number % 2 == 0
        request = ModelRequest(
            system=self._system(target, number) if by_definition else _SYSTEM_WHOLE_FILE,
            messages=(Message(role=Role.USER, text=self._question(target, original, outlined=outlined)),),
            max_tokens=_ANSWER_TOKENS if by_definition else _ANSWER_TOKENS + tokens_of(original.text),
            # The first is the most likely answer; the others differ from it and, by their seed, from each other.
            temperature=0.0 if number == 1 else _LATER_TEMPERATURE,
            seed=number,
        )
        share = 75 / session.task.candidates
        at = 20 + share * (number - 1)
        for repair in range(session.task.max_repairs + 1):
            stage = f"candidate {number}" + (f", repair {repair}" if repair else "")
            await session.news.progress(at + share * repair / (session.task.max_repairs + 1), stage)
            answer = await self._ask(request, stage)
            complaint = await self._judge(target, original, answer, stage, candidates)
            if complaint is None:
                return True
            if repair < session.task.max_repairs:
                session.account.repairs += 1
                if 0 < repair == session.task.max_repairs - 1:
                    # It stands by its mistake: let it begin anew, without what may have misled it.
                    text = self._question(target, original, outlined=not outlined)
                    request = request.model_copy(update={"messages": (Message(role=Role.USER, text=text),)})
                else:
                    request = self._repair_request(request, answer, complaint)
        return False

    async def _ask(self, request: ModelRequest, stage: str) -> ModelAnswer:
        while True:
            try:
                answer = await self._session.ask(request, purpose=stage)
            except LlmFailed as error:
                shorter = _shorten(request) if error.reason == "context_length" else None
                if shorter is None:
                    raise
                request = shorter
                continue
            if answer.finish is Finish.REFUSAL:
                raise Refused(answer.text)
            return answer

    async def _judge(
        self, target: str, original: SourceText, answer: ModelAnswer, stage: str, candidates: Candidates
    ) -> str | None:
        """Apply an answer to the untouched file and test it: a complaint for the model, or None when all is well."""
        session = self._session
        session.files.restore()
        started = time.monotonic()
        try:
            edits = self._apply(target, original, answer)
        except (CannotMergeError, NotTextError, PathRefusedError) as error:
            session.note("edit", f"{stage}: {error}", started)
            return f"Your code can't be used: {error}."
        session.note("edit", f"{stage}: {target}", started)
        session.account.edits = edits
        wrong = session.files.syntax_errors()
        if wrong:
            return f"Your code is not valid: {wrong}."
        if not session.files.changed():
            return "Your code changes nothing. Write the code that the task asks for."
        digest = session.files.digest()
        if digest in self._judged:
            return "This is the code that failed before. Think again about what the task asks for; write other code."
        self._judged.add(digest)
        return await self._verdict(await candidates.judge(stage=stage), target, original, stage)

    async def _verdict(self, candidate: Candidate, target: str, original: SourceText, stage: str) -> str | None:
        """What the tests, and where they say nothing of the change the examples, have against a candidate."""
        if candidate.report is not None and not candidate.passed:
            return f"The tests fail with your code:\n\n{failure_digest(candidate.report)}"
        if self._examples is None or not self._examples.is_needed(target):
            return None
        return await self._examples.complaint(candidate, target=target, source=original.text, stage=stage)

    def _apply(self, target: str, original: SourceText, answer: ModelAnswer) -> list[AppliedEdit]:
        code = code_of(answer.text)
        if answer.finish is Finish.LENGTH:
            raise CannotMergeError("it was cut off; be shorter")
        created = self._session.files.read(target) is None
        if not target.endswith(".py"):
            if has_elision(code):
                raise CannotMergeError("it leaves a part of the file out; write the whole file")
            self._session.files.write(target, original.with_lines(split_lines(code)).encode())
            return [AppliedEdit(path=target, how="created" if created else "whole-file")]
        parts = self._parts(target, answer.text) or {target: code}
        gone = self._gone(original.text, parts.get(target, ""))
        edits: list[AppliedEdit] = []
        for path, part in parts.items():
            text = self._source(path).text
            kept = without_definitions(text, gone) if path == target else without_imports(text, gone)
            edits += self._merge(path, kept, part)
        return edits

    def _gone(self, source: str, code: str) -> set[str]:
        """What the task names, has taken away, and the model's version no longer has: a new name stands for it."""
        return defined_names(source) & self._taken_away() - defined_names(code) if code else set()

    def _taken_away(self) -> set[str]:
        """The names of a task that renames or removes something."""
        prompt = self._session.task.prompt
        return set(mentioned_names(prompt)) if _TAKES_AWAY.search(prompt) else set()

    def _parts(self, target: str, answer: str) -> dict[str, str]:
        """The answer's code by file; blocks that name no file that may be changed are the target's."""
        allowed = {target, *(path for path, _ in self._related(target))}
        by_file: dict[str, list[str]] = {}
        for path, block in blocks_of(answer):
            by_file.setdefault(path if path in allowed else target, []).append(block)
        return {path: "\n\n".join(blocks) for path, blocks in by_file.items()}

    def _merge(self, path: str, text: str, code: str) -> list[AppliedEdit]:
        source = self._source(path)
        created = self._session.files.read(path) is None
        merged = merge_definitions(text, code, gone=self._taken_away())
        lines = split_lines(merged.text)
        self._session.files.write(path, source.with_lines(lines).encode())
        return [
            AppliedEdit(path=path, how="created" if created else "definition", line=_line_of(name, lines))
            for name in (*merged.replaced, *merged.added)
        ]

    # --- what the model is told

    def _source(self, target: str) -> SourceText:
        data = self._session.files.read(target)
        return SourceText.decode(data) if data is not None else SourceText((), ())

    def _question(self, target: str, original: SourceText, *, outlined: bool) -> str:
        """Ask for the change.

        Args:
            target: The file to change.
            original: That file.
            outlined: Leave the bodies out that the task does not name: a small model takes what it sees there, a
                formula, say, for a hint.
        """
        session = self._session
        language = "python" if target.endswith(".py") else ""
        shown = outline(original.text, session.task.prompt) if outlined and language else original.text
        note = " (`...` stands for code that is left out here)" if shown != original.text else ""
        parts = [f"File `{target}`{note}:\n```{language}\n{shown}```"]
        room = 5000 - tokens_of(shown)
        names = mentioned_names(session.task.prompt)
        for path, text in relevant_tests(session.worktree, names, failing(self._before), exclude=target):
            if tokens_of(text) <= room:
                room -= tokens_of(text)
                parts.append(f"File `{path}` (do not change it):\n```{language}\n{text}```")
        for path, text in self._related(target):
            if tokens_of(text) <= room:
                room -= tokens_of(text)
                parts.append(f"File `{path}` (change it too if the task needs it):\n```{language}\n{text}```")
        notes = instructions_of(session.worktree, limit=1200)
        if notes and tokens_of(notes) <= room:
            parts.append(f"Notes of the project:\n{notes}")
        if self._examples is not None and self._examples.for_the_question:
            parts.append(self._examples.for_the_question)
        what = "Write the code that is to be added to" if target.endswith(".py") else "Write the new content of"
        parts.append(f"Task: {session.task.prompt.strip()}\n\n{what} `{target}`.")
        return "\n\n".join(parts)

    def _system(self, target: str, number: int) -> str:
        """Every other candidate lists the requirements first: another way to the answer, where one failed."""
        form = _SEVERAL_FILES if self._related(target) else _ONE_FILE
        return _SYSTEM + form + (_AT_ONCE if number % 2 else _THINK_FIRST)

    def _related(self, target: str) -> list[tuple[str, str]]:
        """Other sources of the same language that the task names, or that use a name of the target that it names."""
        prompt, worktree = self._session.task.prompt, self._session.worktree
        if not target.endswith(".py"):
            return []
        names = set(mentioned_names(prompt)) & defined_names(text_of(worktree, target) or "")
        used = re.compile(rf"\b({'|'.join(map(re.escape, sorted(names)))})\b") if names else None
        files = worktree.files()
        named = mentioned_paths(prompt, files)
        found: list[tuple[str, str]] = []
        for path in files:
            if path == target or not path.endswith(".py") or is_test(path):
                continue
            text = text_of(worktree, path)
            if text and (path in named or (used is not None and used.search(text) and _stem(target) in text)):
                found.append((path, text))
        return found[:_MOST_RELATED]

    def _repair_request(self, request: ModelRequest, answer: ModelAnswer, complaint: str) -> ModelRequest:
        # The first question and the last answer: a small context holds no long history.
        return request.model_copy(
            update={
                # The same question gets the same answer, and a small model stands by it: let it look elsewhere.
                "temperature": _LATER_TEMPERATURE,
                "messages": (
                    request.messages[0],
                    Message(role=Role.ASSISTANT, text=answer.text),
                    Message(
                        role=Role.USER,
                        text=f"{complaint}\n\n{_REPAIR}",
                    ),
                ),
            }
        )


def _stem(path: str) -> str:
    return PurePosixPath(path).stem


def _line_of(name: str, lines: tuple[str, ...]) -> int | None:
    pattern = re.compile(rf"(async def|def|class) {re.escape(name)}\b|{re.escape(name)}\b.*=")
    return next((number for number, line in enumerate(lines, start=1) if pattern.match(line)), None)


def _shorten(request: ModelRequest) -> ModelRequest | None:
    """The same question without its last quoted file, or None when only the target is left."""
    first = request.messages[0]
    blocks = re.split(r"\n\n(?=File `|Notes of the project:|Examples of what|Task: )", first.text)
    for index in range(len(blocks) - 1, 0, -1):
        if not blocks[index].startswith("Task: "):
            text = "\n\n".join(blocks[:index] + blocks[index + 1 :])
            return request.model_copy(
                update={"messages": (first.model_copy(update={"text": text}), *request.messages[1:])}
            )
    if len(request.messages) > 1:
        return request.model_copy(update={"messages": request.messages[:1]})
    return None
