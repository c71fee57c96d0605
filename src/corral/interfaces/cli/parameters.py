"""Arguments and options that several commands share, and how their texts are read."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from corral.jobs.job_type import JobType
from corral.queue.options import JobPriority

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_LARGEST_S = 3650 * 86_400


def parse_duration(text: str | timedelta) -> timedelta:
    """``500ms``, ``3s``, ``1h30m``, ``2d`` or plain seconds, as a duration.

    Raises:
        typer.BadParameter: It is none of these.
    """
    if isinstance(text, timedelta):  # an option's default passes through here too
        return text
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        seconds = float(text)
    elif text and re.fullmatch(f"(?:{_DURATION.pattern})+", text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(text))
    else:
        raise typer.BadParameter(f"expected a duration such as 500ms, 3s, 5m, 1h30m or 2d, got {text!r}")
    if seconds > _LARGEST_S:
        raise typer.BadParameter(f"expected at most 10 years, got {text!r}")
    return timedelta(seconds=seconds)


def parse_instant(text: str) -> datetime:
    """An ISO 8601 instant; without a zone it is this machine's local time.

    Raises:
        typer.BadParameter: It is no instant.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        raise typer.BadParameter(f"expected an instant such as 2030-01-31T09:00:00+01:00, got {text!r}") from None


def parse_priority(text: str) -> int:
    """``critical``, ``high``, ``medium``, ``low``, or a number, 0 the most urgent.

    Raises:
        typer.BadParameter: It is neither.
    """
    if text.isdecimal():
        return int(text)
    try:
        return int(JobPriority[text.upper()])
    except KeyError:
        names = ", ".join(priority.name.lower() for priority in JobPriority)
        raise typer.BadParameter(f"expected {names} or a number from 0, got {text!r}") from None


def read_payload(text: str) -> Any:
    """JSON given as it is, as ``@file``, or as ``-`` for standard input.

    Raises:
        typer.BadParameter: The file can't be read, or it is not JSON.
    """
    source = "--data"
    try:
        if text == "-":
            source, text = "standard input", sys.stdin.read()
        elif text.startswith("@"):
            source = text[1:]
            text = Path(source).read_text(encoding="utf-8")
        return json.loads(text)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise typer.BadParameter(f"can't read {source!r}: {reason}") from None
    except ValueError as error:
        raise typer.BadParameter(f"expected JSON in {source}, got {_shortened(text)!r} ({error})") from None


def _shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _complete_job_type(incomplete: str) -> list[str]:
    return [name for name in (*JobType, "pipeline") if name.startswith(incomplete)]


def _complete_priority(incomplete: str) -> list[str]:
    return [name for name in (item.name.lower() for item in JobPriority) if name.startswith(incomplete)]


JobTypeArgument = Annotated[
    str, typer.Argument(metavar="JOB_TYPE", help="The queue, as code-generation.", autocompletion=_complete_job_type)
]
JobIdArgument = Annotated[str, typer.Argument(metavar="JOB_ID", help="The job's id, as `add` printed it.")]
ProjectArgument = Annotated[str, typer.Argument(metavar="PROJECT", help="A registered project's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer as JSON, one document a line.")]
PriorityOption = Annotated[
    int | None,
    typer.Option(
        "--priority",
        parser=parse_priority,
        metavar="PRIORITY",
        help="critical, high, medium (default), low, or a number; lower runs first.",
        autocompletion=_complete_priority,
    ),
]
TimeoutOption = Annotated[
    timedelta | None,
    typer.Option("--timeout", parser=parse_duration, metavar="DURATION", help="Give up waiting after this long."),
]
UserOption = Annotated[str, typer.Option("--user", help="Whose job it is.", envvar="CORRAL_USER")]
DEFAULT_USER = "cli"
