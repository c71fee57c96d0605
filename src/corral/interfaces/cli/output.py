"""What a command says: for people on a terminal, for programs as JSON; and the exit code that goes with it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from pydantic_core import to_jsonable_python
from rich.console import Console, RenderableType
from rich.markup import escape

from corral import errors

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class ExitCode(IntEnum):
    """What the shell is told; the table is in ``docs/cli.md``."""

    OK = 0
    FAILED = 1
    """What was asked for was tried and failed: a job that failed, a doctor that found a fault."""
    USAGE = 2
    """A wrong argument, or a payload that doesn't fit."""
    NOT_FOUND = 3
    """No such job, job type, project, index, pull request, or schedule."""
    CONFLICT = 4
    """The job, or the pull request, is not in a state that allows this."""
    UNAVAILABLE = 5
    """Redis or a service can't be reached."""
    CONFIGURATION = 6
    """A setting is wrong, or an extra, a model or the sandbox is missing."""
    TIMED_OUT = 7
    """No answer within the time given."""
    INTERNAL = 70
    """A fault of Corral's own."""
    INTERRUPTED = 130
    """Ctrl-C."""


# The first class that fits decides, so children stand before their parents.
_CODES: tuple[tuple[type[errors.CorralError], ExitCode], ...] = (
    (errors.PayloadInvalid, ExitCode.USAGE),
    (errors.JobNotFound, ExitCode.NOT_FOUND),
    (errors.UnknownJobType, ExitCode.NOT_FOUND),
    (errors.UnknownProject, ExitCode.NOT_FOUND),
    (errors.JobStateConflict, ExitCode.CONFLICT),
    (errors.StoreUnsuitable, ExitCode.CONFIGURATION),
    (errors.StoreAuthenticationFailed, ExitCode.CONFIGURATION),
    (errors.StoreError, ExitCode.UNAVAILABLE),
    (errors.ConfigurationError, ExitCode.CONFIGURATION),
    (errors.ResultTimedOut, ExitCode.TIMED_OUT),
)

# What a part outside refuses for a reason that the caller can mend; by `AdapterError.reason`.
_REFUSALS: Mapping[str, ExitCode] = {
    "not_indexed": ExitCode.NOT_FOUND,
    "pull_request_not_found": ExitCode.NOT_FOUND,
    "on_another_forge": ExitCode.USAGE,
    "not_open": ExitCode.CONFLICT,
    "merge_conflict": ExitCode.CONFLICT,
    "branch_protected": ExitCode.CONFLICT,
    "branch_moved": ExitCode.CONFLICT,
    "target_missing": ExitCode.CONFLICT,
}


def exit_code_of(error: errors.CorralError) -> ExitCode:
    """The exit code that tells what kind of error this is."""
    if isinstance(error, errors.AdapterError) and error.reason in _REFUSALS:
        return _REFUSALS[error.reason]
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def as_json(value: Any) -> Any:
    """``value`` as JSON in the wire's own spelling: camelCase names, ISO 8601 instants, seconds for durations.

    Keys of plain mappings are data and stay as they are.
    """
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            to_camel(field.name): as_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not field.name.startswith("_")
        }
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item) for item in value]
    return to_jsonable_python(value, timedelta_mode="float", fallback=str)


def without_controls(text: str) -> str:
    """Text of strangers with what steers a terminal, or turns its direction, written out."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text.replace("\r\n", "\n"))


def foreign(text: str) -> str:
    """Text of strangers as Rich's markup that says just that text, and can't steer the terminal."""
    return escape(without_controls(text))


class Output:
    """Where a command's answer goes: results to standard output, everything else to standard error."""

    def __init__(self, *, as_json_lines: bool = False) -> None:
        """Answer as JSON, one document a line, when ``as_json_lines``; else for people."""
        self.json = as_json_lines
        self.out = Console(soft_wrap=True, highlight=False)
        self.err = Console(stderr=True, soft_wrap=True, highlight=False)

    def show(self, value: Any, *rendered: RenderableType) -> None:
        """Give the answer: ``value`` as JSON (each item of a list on a line), or ``rendered`` for people."""
        if self.json:
            for document in value if isinstance(value, list) else [value]:
                self.out.file.write(json.dumps(as_json(document), ensure_ascii=False) + "\n")
            self.out.file.flush()
        else:
            for part in rendered:
                self.out.print(part)

    def note(self, text: str) -> None:
        """Say something beside the answer; programs are spared it."""
        if not self.json:
            self.err.print(escape(text))

    def fail(self, error: BaseException, *, code: ExitCode) -> ExitCode:
        """Say in one line what went wrong, and give ``code`` back."""
        message = " ".join(str(error).split()) or type(error).__name__
        if self.json:
            document = {"error": type(error).__name__, "message": message, "exitCode": int(code)}
            self.err.file.write(json.dumps(document, ensure_ascii=False) + "\n")
            self.err.file.flush()
        else:
            self.err.print(f"[bold red]corral:[/] {foreign(message)}")
        return code
