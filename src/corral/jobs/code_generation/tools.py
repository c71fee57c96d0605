"""The tools of the agent loop: look, edit, check. None reaches the network or a path outside the worktree."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from corral.adapters.llm.port import Tool, ToolCall
from corral.jobs.code_generation.edit_formats import FormatError, parse_edits
from corral.jobs.code_generation.edits import (
    DeleteFile,
    Edit,
    EditsMissedError,
    RenameFile,
    SearchReplace,
    WholeFile,
    plan_edits,
)
from corral.jobs.code_generation.payload import EditFormat
from corral.jobs.code_generation.report_text import describe, failure_digest
from corral.jobs.code_generation.session import Session
from corral.jobs.code_generation.source_text import NotTextError, SourceText
from corral.jobs.code_generation.worktree import PathRefusedError

_MOST_LINES = 400
_MOST_CHARACTERS = 24_000
_MOST_PATHS = 300
_MOST_HITS = 60
_MOST_TEST_RUNS = 10
_LONGEST_LINE = 400

_Path = Annotated[str, Field(min_length=1, max_length=1024, description="Path inside the repository")]


class _Arguments(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _ListFiles(_Arguments):
    """List the repository's files, or those whose path fits a pattern such as src/**/*.py."""

    pattern: str = Field(default="*", max_length=300)


class _ReadFile(_Arguments):
    """Read lines of a file, with their numbers."""

    path: _Path
    start: int = Field(default=1, ge=1)
    end: int | None = Field(default=None, ge=1)


class _SearchText(_Arguments):
    """Find lines that hold a text (upper and lower case alike), in all files or those that fit a pattern."""

    # No regular expressions: one that a model writes (or a repository talks it into) can stall the worker for hours.
    text: str = Field(min_length=1, max_length=300)
    pattern: str = Field(default="*", max_length=300)


class _SearchCode(_Arguments):
    """Find code by meaning or by name in the project's index; answers come with their scores."""

    query: str = Field(min_length=1, max_length=500)


class _Block(_Arguments):
    path: _Path
    search: str = Field(max_length=200_000, description="Whole lines as they are in the file; empty to create a file")
    replace: str = Field(max_length=200_000, description="The lines that take their place")


class _Edit(_Arguments):
    """Replace lines in files. Each search text must occur exactly once in its file. All edits apply, or none."""

    edits: list[_Block] = Field(min_length=1, max_length=100)


class _ApplyDiff(_Arguments):
    """Apply a unified diff. Hunks are placed by their lines, which must be unique. All hunks apply, or none."""

    diff: str = Field(min_length=1, max_length=1_000_000)


class _WriteFile(_Arguments):
    """Write a file's whole content, creating it when there is none."""

    path: _Path
    content: str = Field(max_length=1_000_000)


class _DeleteFile(_Arguments):
    """Delete a file."""

    path: _Path


class _RenameFile(_Arguments):
    """Rename a file."""

    path: _Path
    to: _Path


class _RunTests(_Arguments):
    """Run the project's tests in the sandbox and get what failed."""


class _Finish(_Arguments):
    """Say that the work is done."""

    summary: str = Field(max_length=4000, description="What was changed and why, for the reviewer")


class ToolBox:
    """The tools of one candidate."""

    def __init__(self, session: Session, *, form: EditFormat) -> None:
        self._session = session
        self._form = form
        self._test_runs = 0
        #: The summary, once the model has said that it is done.
        self.finished: str | None = None
        #: Lines for the job's log are short; answers for the model may be long.
        self._tools: dict[str, tuple[type[_Arguments], Callable[[Any], Awaitable[str]]]] = {
            "list_files": (_ListFiles, self._list_files),
            "read_file": (_ReadFile, self._read_file),
            "search_text": (_SearchText, self._search_text),
            "search_code": (_SearchCode, self._search_code),
            **self._edit_tool(),
            "delete_file": (_DeleteFile, self._delete_file),
            "rename_file": (_RenameFile, self._rename_file),
            "finish": (_Finish, self._finish),
        }
        if session.test_command is not None:
            self._tools["run_tests"] = (_RunTests, self._run_tests)

    def _edit_tool(self) -> dict[str, tuple[type[_Arguments], Callable[[Any], Awaitable[str]]]]:
        if self._form is EditFormat.UNIFIED_DIFF:
            return {"apply_diff": (_ApplyDiff, self._apply_diff)}
        if self._form is EditFormat.WHOLE_FILE:
            return {"write_file": (_WriteFile, self._write_file)}
        return {"edit": (_Edit, self._edit)}

    @cached_property
    def described(self) -> tuple[Tool, ...]:
        """The tools as models are told about them; the same objects for every question, so they are hashed once."""
        return tuple(
            Tool(name=name, description=(arguments.__doc__ or "").strip(), parameters=_schema(arguments))
            for name, (arguments, _) in sorted(self._tools.items())
        )

    async def use(self, call: ToolCall) -> str:
        """Do what the model asks; whatever is wrong with the call comes back in words."""
        known = self._tools.get(call.name)
        if known is None:
            return f"error: there is no tool {call.name!r}; there are {', '.join(sorted(self._tools))}"
        arguments, act = known
        try:
            given = arguments.model_validate_json(call.arguments or "{}")
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in one['loc']) or 'arguments'}: {one['msg']}"
                for one in error.errors()[:5]
            )
            return f"error: {call.name}: {problems}"
        try:
            return await act(given)
        except (PathRefusedError, NotTextError, FormatError) as error:
            return f"error: {error}"

    async def apply(self, edits: list[Edit]) -> str:
        """Apply edits, all or none, and check their syntax."""
        session = self._session
        started = time.monotonic()
        try:
            one_spelling = [self._cleaned(edit) for edit in edits]
            # In a thread: looking for a place in a long file takes a while, and other jobs run on this loop.
            plan = await asyncio.to_thread(plan_edits, one_spelling, session.files.read)
            session.files.write_all(plan.files, renamed=plan.renamed)
        except EditsMissedError as error:
            session.note("edit", f"missed: {'; '.join(miss.path for miss in error.misses)}", started)
            return f"error: nothing was changed.\n{error}"
        except PathRefusedError as error:
            session.note("edit", f"refused: {error}", started)
            return f"error: nothing was changed.\n{error}"
        session.account.edits.extend(plan.applied)
        session.note("edit", ", ".join(f"{one.path} ({one.how})" for one in plan.applied), started)
        wrong = session.files.syntax_errors()
        return f"applied, but the syntax is wrong now:\n{wrong}" if wrong else "applied"

    def _cleaned(self, edit: Edit) -> Edit:
        """With paths in their one spelling: two edits of one file must know of each other."""
        clean = self._session.worktree.clean
        if isinstance(edit, RenameFile):
            return replace(edit, path=clean(edit.path), to=clean(edit.to))
        return replace(edit, path=clean(edit.path))

    # --- look

    async def _list_files(self, given: _ListFiles) -> str:
        paths = await asyncio.to_thread(self._session.worktree.files)
        found = [path for path in paths if _fits(path, given.pattern)]
        told = "\n".join(found[:_MOST_PATHS])
        return told + (f"\n… and {len(found) - _MOST_PATHS} more" if len(found) > _MOST_PATHS else "") or "(none)"

    async def _read_file(self, given: _ReadFile) -> str:
        data = self._session.files.read(given.path)
        if data is None:
            return f"error: there is no file {given.path!r}"
        lines = SourceText.decode(data).lines
        last = min(given.end or len(lines), given.start + _MOST_LINES - 1, len(lines))
        told = "\n".join(f"{number}: {lines[number - 1][:_LONGEST_LINE]}" for number in range(given.start, last + 1))
        more = f"\n… {len(lines)} lines in all" if last < len(lines) else ""
        return told[:_MOST_CHARACTERS] + more or "(empty)"

    async def _search_text(self, given: _SearchText) -> str:
        return await asyncio.to_thread(self._found_text, given)

    def _found_text(self, given: _SearchText) -> str:
        wanted = given.text.lower()
        found: list[str] = []
        for path in self._session.worktree.files():
            if not _fits(path, given.pattern):
                continue
            try:
                data = self._session.files.read(path)
                lines = SourceText.decode(data).lines if data is not None else ()
            except (NotTextError, PathRefusedError):
                continue
            for number, line in enumerate(lines, start=1):
                if wanted in line.lower():
                    found.append(f"{path}:{number}: {line.strip()[:200]}")
                    if len(found) >= _MOST_HITS:
                        return "\n".join(found) + "\n… there are more"
        return "\n".join(found) or "(no line holds it)"

    async def _search_code(self, given: _SearchCode) -> str:
        hits = await self._session.find_code(given.query, limit=8)
        told = [
            f"{hit.path}:{hit.start_line}-{hit.end_line} {hit.symbol or ''} (score {hit.score:.2f})\n{hit.text[:1500]}"
            for hit in hits
        ]
        return "\n\n".join(told) or "(the index has nothing; use search_text)"

    # --- edit

    async def _edit(self, given: _Edit) -> str:
        return await self.apply(
            [SearchReplace(path=one.path, search=one.search, replace=one.replace) for one in given.edits]
        )

    async def _apply_diff(self, given: _ApplyDiff) -> str:
        edits = parse_edits(given.diff, EditFormat.UNIFIED_DIFF)
        return await self.apply(edits) if edits else "error: the diff holds no hunk"

    async def _write_file(self, given: _WriteFile) -> str:
        return await self.apply([WholeFile(path=given.path, content=given.content)])

    async def _delete_file(self, given: _DeleteFile) -> str:
        return await self.apply([DeleteFile(path=given.path)])

    async def _rename_file(self, given: _RenameFile) -> str:
        return await self.apply([RenameFile(path=given.path, to=given.to)])

    # --- check and end

    async def _run_tests(self, given: _RunTests) -> str:
        del given
        if self._test_runs >= _MOST_TEST_RUNS:
            return f"error: the tests were run {_MOST_TEST_RUNS} times already; finish with what you have"
        self._test_runs += 1
        report = await self._session.run_tests(stage="asked for by the model")
        if report is None:
            return "error: there is no test command"
        return "all pass" if report.passed else f"{describe(report)}\n\n{failure_digest(report)}"

    async def _finish(self, given: _Finish) -> str:
        self.finished = given.summary.strip() or "Done."
        return "noted"


def _fits(path: str, pattern: str) -> bool:
    return fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, pattern.replace("**/", ""))


def _schema(arguments: type[_Arguments]) -> str:
    schema = arguments.model_json_schema()
    schema.pop("description", None)
    return json.dumps(schema)
