"""Reads the reports that test runners write. All of it was written by untrusted programs: bounded, parsed defensively.

What comes line by line while the tests run is read in ``streams``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from corral.adapters.sandbox.port import WORKSPACE
from corral.errors import ExtraMissing
from corral.jobs.test_execution.output import harmless
from corral.jobs.test_execution.report import CaseOutcome, TestCase

_NAME_CHARACTERS = 500
_MESSAGE_CHARACTERS = 2000
_TRACE_CHARACTERS = 8000
_OUTPUT_CHARACTERS = 8000
_ROOT = f"{WORKSPACE}/"


class UnreadableReportError(ValueError):
    """The report is not what its runner writes."""


@dataclass(slots=True)
class ParsedReport:
    """What a report said."""

    cases: list[TestCase] = field(default_factory=list)
    #: The runner's own name of each case, beside ``cases``; "" where it has none. Used to run single cases again.
    identities: list[str] = field(default_factory=list)
    #: Whether the runner itself came up.
    started: bool = False
    #: The runner, where the report names it.
    runner: str | None = None
    #: How many cases it said that there would be.
    expected: int | None = None

    def add(self, case: TestCase, identity: str = "") -> None:
        """Add a case."""
        self.cases.append(case)
        self.identities.append(identity)


def bounded(text: object, characters: int) -> str | None:
    """Make a text harmless, and keep the beginning and the end of a long one."""
    if not isinstance(text, str) or not text:
        return None
    if len(text) > characters:
        half = characters // 2
        text = f"{text[:half]}\n[...]\n{text[-half:]}"
    return harmless(text.replace("\r\n", "\n")).strip("\n") or None


def _path(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    path = value.replace("\\", "/").removeprefix("file://").removeprefix(_ROOT).removeprefix("./")
    return harmless(path)[:_NAME_CHARACTERS].replace("\n", "\\n")


def _seconds(value: object) -> float:
    try:
        number = float(str(value).replace(",", ""))
    except ValueError:
        return 0.0
    return round(number, 6) if 0 <= number < 1e7 else 0.0


def make_case(
    *,
    file: object = None,
    name: object,
    outcome: CaseOutcome,
    seconds: object = 0.0,
    message: object = None,
    trace: object = None,
    output: object = None,
) -> TestCase:
    """Make a case of what a report holds, every text bounded and harmless."""
    return TestCase(
        file=_path(file),
        name=(harmless(str(name))[:_NAME_CHARACTERS].replace("\n", "\\n") or "unnamed"),
        outcome=outcome,
        seconds=_seconds(seconds),
        message=bounded(message, _MESSAGE_CHARACTERS),
        trace=bounded(trace, _TRACE_CHARACTERS),
        output=bounded(output, _OUTPUT_CHARACTERS),
    )


# --- JUnit


def parse_junit(content: bytes) -> ParsedReport:
    """Read JUnit XML, in any of its dialects.

    Raises:
        UnreadableReportError: It is no JUnit XML, or declares entities (which are never expanded).
    """
    try:
        import defusedxml  # noqa: PLC0415 - only runs that left such a report need it
        import defusedxml.ElementTree  # noqa: PLC0415
        import junitparser  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissing("reading JUnit XML needs the extra: pip install 'corral[sandbox]'") from error
    try:
        root = defusedxml.ElementTree.fromstring(content, forbid_dtd=True)
        suites = junitparser.JUnitXml.fromroot(root)  # type: ignore[arg-type]  # its own name for the same class
        report = ParsedReport(started=True)
        for case in _junit_cases(suites, junitparser):
            report.add(_junit_case(case, junitparser))
    except (defusedxml.DefusedXmlException, junitparser.JUnitXmlError, SyntaxError, ValueError) as error:
        # SyntaxError: ElementTree.ParseError is one.
        raise UnreadableReportError(f"expected JUnit XML: {type(error).__name__}: {str(error)[:200]}") from error
    return report


def _junit_cases(suite: Any, junitparser: Any) -> Iterator[Any]:
    # Suites hold suites in some dialects (Node's describe blocks); an own stack, as depth is the program's to choose.
    waiting = [suite]
    while waiting:
        element = waiting.pop()
        if isinstance(element, junitparser.TestCase):
            yield element
        else:  # a suite, or the root, which in some dialects (Node's) holds cases itself
            kinds = (junitparser.TestCase, junitparser.TestSuite)
            waiting.extend(reversed([child for kind in kinds for child in element.iterchildren(kind)]))


def _junit_case(case: Any, junitparser: Any) -> TestCase:
    outcome, message, trace = CaseOutcome.PASSED, None, None
    for result in case.result:
        if isinstance(result, junitparser.Skipped):
            found = CaseOutcome.SKIPPED
        elif isinstance(result, junitparser.Error):
            found = CaseOutcome.ERROR
        elif isinstance(result, junitparser.Failure):
            found = CaseOutcome.FAILED
        else:
            continue
        if outcome in (CaseOutcome.PASSED, CaseOutcome.SKIPPED):
            outcome, message, trace = found, result.message or (result.text or "").strip()[:200], result.text
    file = case._elem.get("file")  # noqa: SLF001 - an attribute that many runners write and the library has no name for
    group = case.classname
    name = str(case.name or "")
    if not file and group and group not in (name, "test"):
        name = f"{group}.{name}"
    output = "\n".join(filter(None, [case.system_out, case.system_err]))
    return make_case(
        file=file,
        name=name,
        outcome=outcome,
        seconds=case.time or 0,
        message=message,
        trace=trace,
        output=output if outcome in (CaseOutcome.FAILED, CaseOutcome.ERROR) else None,
    )


# --- JSON


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UnreadableReportError(f"expected JSON: {str(error)[:200]}") from error


def _dicts(value: object) -> list[dict[str, Any]]:
    return [member for member in value if isinstance(member, dict)] if isinstance(value, list) else []


_JEST_OUTCOMES = {
    "passed": CaseOutcome.PASSED, "failed": CaseOutcome.FAILED, "pending": CaseOutcome.SKIPPED,
    "skipped": CaseOutcome.SKIPPED, "todo": CaseOutcome.SKIPPED, "disabled": CaseOutcome.SKIPPED,
}  # fmt: skip


def parse_jest(content: bytes) -> ParsedReport:
    """Read Jest's ``--json`` report, or Vitest's json reporter's.

    Raises:
        UnreadableReportError: It is something else.
    """
    data = _json(content)
    if not isinstance(data, dict) or not isinstance(data.get("testResults"), list):
        raise UnreadableReportError("expected a Jest report with testResults")
    report = ParsedReport(started=True)
    for suite in _dicts(data["testResults"]):
        cases = _dicts(suite.get("assertionResults"))
        if not cases and suite.get("status") == "failed":
            said = suite.get("message")
            report.add(
                make_case(
                    file=suite.get("name"), name="import", outcome=CaseOutcome.ERROR, message=_reason(said), trace=said
                )
            )
        for case in cases:
            failures = case.get("failureMessages")
            trace = "\n".join(str(text) for text in failures) if isinstance(failures, list) else None
            report.add(
                make_case(
                    file=suite.get("name"),
                    name=case.get("fullName") or case.get("title"),
                    outcome=_JEST_OUTCOMES.get(str(case.get("status")), CaseOutcome.ERROR),
                    seconds=_milliseconds(case.get("duration")),
                    message=trace.partition("\n")[0] if trace else None,
                    trace=trace,
                )
            )
    return report


def _reason(said: object) -> str | None:
    """Find why a file could not be loaded: the first line that names an error, else the first that isn't a heading."""
    lines = [line.strip() for line in harmless(said).splitlines() if line.strip()] if isinstance(said, str) else []
    named = (line for line in lines if re.match(r"\w*Error: |\[\w*ERROR\] ", line))
    return next(named, next((line for line in lines if not line.startswith("●")), None))


def _milliseconds(value: object) -> float:
    return value / 1000 if isinstance(value, int | float) else 0.0


# --- TAP


_TAP_START = re.compile(r"^(?:TAP version 1[34]\s*$|1\.\.\d+)", re.MULTILINE)


def looks_like_tap(text: str) -> bool:
    """Whether an output is TAP: a version line or a plan, and at least one result."""
    return bool(_TAP_START.search(text)) and bool(re.search(r"^(?:not )?ok\b", text, re.MULTILINE))


def parse_tap(text: str) -> ParsedReport:
    """Read TAP, versions 12 to 14, out of the output. Of subtests, which are indented, only their parents count."""
    try:
        from tap.parser import Parser  # noqa: PLC0415 - only runs that print TAP need it
    except ImportError as error:
        raise ExtraMissing("reading TAP needs the extra: pip install 'corral[sandbox]'") from error
    report, parser = ParsedReport(started=True), Parser()
    notes: list[list[str]] = []  # beside the cases: what follows each of them
    for raw in text.splitlines():
        if raw.startswith((" ", "\t", "#")):
            if notes:
                notes[-1].append(raw.strip().removeprefix("# "))
            continue
        try:
            line = parser.parse_line(raw.rstrip())
        except ValueError:
            continue  # a version that TAP doesn't have
        if line.category == "plan":
            report.expected = line.expected_tests
        elif line.category in ("bail", "test"):
            report.add(_tap_case(line))
            notes.append([])
    for position, case in enumerate(report.cases):
        if case.outcome is CaseOutcome.FAILED and notes[position]:
            said = "\n".join(notes[position])
            report.cases[position] = case.model_copy(
                update={"trace": bounded(said, _TRACE_CHARACTERS), "message": bounded(said, 200)}
            )
    return report


def _tap_case(line: Any) -> TestCase:
    if line.category == "bail":
        return make_case(name="bail out", outcome=CaseOutcome.ERROR, message=line.reason)
    name = line.description.lstrip("- ").strip() or f"test {line.number}"
    if line.skip or line.todo:
        return make_case(name=name, outcome=CaseOutcome.SKIPPED, message=line.directive.text)
    return make_case(name=name, outcome=CaseOutcome.PASSED if line.ok else CaseOutcome.FAILED)
