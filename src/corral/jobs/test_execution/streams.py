"""Reads what test runners report line by line, while they run. Written by untrusted programs, as in ``parsing``.

Go and Cargo report on their output, as JSON that nobody wants to read: what their parsers return is for people.
"""

from __future__ import annotations

import codecs
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from corral.jobs.test_execution.parsing import ParsedReport, make_case
from corral.jobs.test_execution.report import CaseOutcome

_OUR_RUNNERS = ("pytest", "unittest", "mocha", "node")
_LINE_BYTES = 1024 * 1024
"""Longer lines are no report's."""


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) else None


_Loose = Annotated[str | None, BeforeValidator(_text_or_none)]


class _Event(BaseModel):
    model_config = ConfigDict(extra="ignore")

    event: Literal["start", "total", "case"]
    runner: _Loose = None
    count: int = 0
    id: _Loose = None
    file: _Loose = None
    name: _Loose = None
    outcome: CaseOutcome = CaseOutcome.ERROR
    seconds: float = 0.0
    message: _Loose = None
    trace: _Loose = None
    output: _Loose = None


class EventParser:
    """Reads the lines of ``reporters`` as they come."""

    def __init__(self) -> None:
        """Begin."""
        self.report = ParsedReport()
        self._partial = b""

    def feed(self, chunk: bytes) -> None:
        """Take a piece of the file; lines that aren't events are passed over."""
        lines = (self._partial + chunk).split(b"\n")
        self._partial = lines.pop()
        for line in lines:
            if not line:
                continue
            try:
                event = _Event.model_validate_json(line)
            except ValidationError:
                continue
            self._take(event)

    def _take(self, event: _Event) -> None:
        report = self.report
        if event.event == "start":
            report.started = True
            report.runner = event.runner if event.runner in _OUR_RUNNERS else None
        elif event.event == "total":
            report.expected = min(max(event.count, 0) + (report.expected or 0), 10_000_000)
        else:
            case = make_case(
                file=event.file, name=event.name, outcome=event.outcome, seconds=event.seconds,
                message=event.message, trace=event.trace, output=event.output,
            )  # fmt: skip
            report.add(case, event.id or "")


class OutputParser(ABC):
    """Reads a report out of the output as it comes."""

    def __init__(self) -> None:
        """Begin."""
        self.report = ParsedReport()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = ""

    def feed(self, chunk: bytes) -> bytes:
        """Take a piece of output; returns what people are to read in its place."""
        *lines, self._partial = (self._partial + self._decoder.decode(chunk)).split("\n")
        shown = "".join(self._line(line) for line in lines)
        if len(self._partial) > _LINE_BYTES:
            shown, self._partial = shown + self._partial, ""
        return shown.encode(errors="replace")

    def finish(self) -> bytes:
        """Take the last line, when it has no end; returns what people are to read of it."""
        line, self._partial = self._partial, ""
        return self._line(line).removesuffix("\n").encode(errors="replace") if line else b""

    def _line(self, line: str) -> str:
        if line.startswith("{"):
            try:
                event = json.loads(line)
            except (ValueError, RecursionError):
                event = None
            if isinstance(event, dict) and (shown := self._event(event)) is not None:
                return shown
        self._plain(line)
        return line + "\n"

    @abstractmethod
    def _event(self, event: Mapping[str, Any]) -> str | None:
        """Take a line of JSON; returns what people are to read, or None when it is not the runner's."""

    @abstractmethod
    def _plain(self, line: str) -> None:
        """Take any other line."""


_GO_OUTCOMES = {"pass": CaseOutcome.PASSED, "fail": CaseOutcome.FAILED, "skip": CaseOutcome.SKIPPED}
_GO_PLACE = re.compile(r"^\s*[^\s:]+\.go:\d+(?::\d+)?: ")
_GO_BUILD = re.compile(r"^# (\S+)")
_GO_TEXT_CHARACTERS = 64_000


class GoParser(OutputParser):
    """Reads the lines of ``go test -json`` (``go doc test2json``)."""

    def __init__(self) -> None:
        """Begin."""
        super().__init__()
        self._said: dict[tuple[str, str], str] = {}
        self._errors: dict[tuple[str, str], str] = {}
        self._running: dict[tuple[str, str], None] = {}
        self._failed: set[str] = set()
        self._building = ""

    def _plain(self, line: str) -> None:
        # Before Go 1.24 a compiler's words are no events; they follow the package's name.
        if match := _GO_BUILD.match(line):
            self._building = match[1]
        elif self._building:
            self._keep(self._said, (self._building, ""), line + "\n")

    @staticmethod
    def _keep(where: dict[tuple[str, str], str], key: tuple[str, str], text: str) -> None:
        if len(where.get(key, "")) < _GO_TEXT_CHARACTERS:
            where[key] = where.get(key, "") + text

    def _event(self, event: Mapping[str, Any]) -> str | None:
        action = event.get("Action")
        if not isinstance(action, str):
            return None
        key = (str(event.get("Package") or event.get("ImportPath") or ""), str(event.get("Test") or ""))
        self._building = ""
        said = str(event.get("Output") or "")
        if action in ("output", "build-output"):
            self._keep(self._said, key, said)
            if str(event.get("OutputType", "")).startswith("error"):
                self._keep(self._errors, key, said)
            return said
        if action in ("start", "run", "pass", "fail", "skip"):
            self.report.started = True
        if action == "run":
            self._running[key] = None
        elif action in _GO_OUTCOMES and key[1]:
            self._ended(key, _GO_OUTCOMES[action], event.get("Elapsed", 0))
        elif action == "fail":
            self._package_failed(key[0], str(event.get("FailedBuild") or ""))
        return ""

    def _ended(self, key: tuple[str, str], outcome: CaseOutcome, seconds: object) -> None:
        self._running.pop(key, None)
        said, errors = self._said.pop(key, ""), self._errors.pop(key, "")
        failed = outcome is CaseOutcome.FAILED
        if failed:
            self._failed.add(key[0])
        message = None if outcome is CaseOutcome.PASSED else _go_message(said, errors)
        self.report.add(
            make_case(
                name=".".join(key), outcome=outcome, seconds=seconds, message=message, trace=said if failed else None
            )
        )

    def _package_failed(self, package: str, build: str) -> None:
        for key in [key for key in self._running if key[0] == package]:
            self._ended(key, CaseOutcome.FAILED, 0)  # it took the whole package with it
        if package in self._failed:
            return
        # It didn't compile, or died outside of a test.
        said = self._said.pop((build, ""), "") if build and build != package else ""
        said += next((self._said.pop(key) for key in [(f"{package} [{package}.test]", "")] if key in self._said), "")
        said += self._said.pop((package, ""), "")
        self.report.add(
            make_case(name=package, outcome=CaseOutcome.ERROR, message=_go_message(said, "") or "it failed", trace=said)
        )


def _go_message(said: str, errors: str) -> str | None:
    """Find the words that say why: those marked as an error (Go 1.25), a panic's, else the last with a place."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if panic := next((line for line in lines if line.startswith("panic: ")), None):
        return panic
    if marked := [line.strip() for line in errors.splitlines() if line.strip()]:
        return "\n".join(marked[:4])
    placed = [line for line in lines if _GO_PLACE.match(line)]
    if placed:
        return placed[-1]
    return next((line for line in lines if not line.startswith(("=== ", "--- ", "FAIL", "#", "exit "))), None)


_LIBTEST_OUTCOMES = {
    "ok": CaseOutcome.PASSED, "failed": CaseOutcome.FAILED, "ignored": CaseOutcome.SKIPPED,
    "timeout": CaseOutcome.ERROR,
}  # fmt: skip
_RUNNING = re.compile(r"^\s+Running (?:unittests )?(\S+\.rs) \(")
_NEXT_TARGET = re.compile(r"^(?:\s+(?:Running|Doc-tests) |error: (?:test|doctest) failed)")
_DOC_TESTS = re.compile(r"^\s+Doc-tests \S+")


class CargoParser(OutputParser):
    """Reads the JSON lines of Rust's compiler (``--message-format=json``) and of its test harness."""

    def __init__(self) -> None:
        """Begin."""
        super().__init__()
        self._file: str | None = None
        self._unbuilt: dict[str | None, int] = {}  # file → place of its case
        self._begun: dict[str, None] = {}

    def _plain(self, line: str) -> None:
        if _NEXT_TARGET.match(line):
            for name in self._begun:
                said = "the process ended before this test did"
                self.report.add(make_case(file=self._file, name=name, outcome=CaseOutcome.ERROR, message=said))
            self._begun.clear()
        if match := _RUNNING.match(line):
            self._file = match[1]
        elif _DOC_TESTS.match(line):
            self._file = None

    def _event(self, event: Mapping[str, Any]) -> str | None:
        if isinstance(event.get("reason"), str):
            message = event.get("message")
            return self._compiled(message) if isinstance(message, dict) else ""
        what = event.get("event")
        if event.get("type") == "suite" and what == "started":
            self.report.started = True
            count = event.get("test_count")
            self.report.expected = (self.report.expected or 0) + (count if isinstance(count, int) else 0)
            return f"running {count} tests\n"
        if event.get("type") == "suite":
            return f"{what}: {event.get('passed')} passed, {event.get('failed')} failed\n"
        if event.get("type") == "test" and what in _LIBTEST_OUTCOMES:
            return self._test(event)
        if event.get("type") == "test":
            if what == "started":
                self._begun[str(event.get("name"))] = None
            return ""
        return None

    def _test(self, event: Mapping[str, Any]) -> str:
        outcome = _LIBTEST_OUTCOMES[event["event"]]
        name, said = str(event.get("name")), event.get("stdout")
        self._begun.pop(name, None)
        failed = outcome in (CaseOutcome.FAILED, CaseOutcome.ERROR)
        message = _panic(said) if failed else event.get("message") if outcome is CaseOutcome.SKIPPED else None
        # A documentation test is named "src/lib.rs - item (line 3)".
        file = self._file or (name.partition(" - ")[0] if " - " in name else None)
        self.report.add(
            make_case(
                file=file, name=name, outcome=outcome, seconds=event.get("exec_time", 0), message=message,
                trace=said if failed else None,
            )
        )  # fmt: skip
        return f"test {name} ... {event['event']}\n" + (f"{said}\n" if failed and isinstance(said, str) else "")

    def _compiled(self, message: Mapping[str, Any]) -> str:
        """Take what the compiler said: all errors in a file are one case."""
        said = str(message.get("rendered") or "")
        text = str(message.get("message") or "")
        if str(message.get("level", "")).startswith("error") and not text.startswith("aborting due to"):
            spans = message.get("spans")
            places = [span for span in spans if isinstance(span, dict)] if isinstance(spans, list) else []
            file = next((str(span.get("file_name")) for span in places if span.get("is_primary")), None)
            self.report.started = True
            if file in self._unbuilt:
                position = self._unbuilt[file]
                case = self.report.cases[position]
                if said not in (case.trace or ""):
                    said_all = f"{case.trace or ''}\n{said}"
                    self.report.cases[position] = make_case(
                        file=file, name="compile", outcome=CaseOutcome.ERROR, message=case.message, trace=said_all
                    )
            else:
                self._unbuilt[file] = len(self.report.cases)
                self.report.add(
                    make_case(file=file, name="compile", outcome=CaseOutcome.ERROR, message=text, trace=said)
                )
        return said


def _panic(said: object) -> str | None:
    lines = said.splitlines() if isinstance(said, str) else []
    for position, line in enumerate(lines):
        if "panicked at" in line:
            return "\n".join(lines[position : position + 2])
    return lines[0] if lines else None
