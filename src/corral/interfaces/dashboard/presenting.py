"""What a job's data is shown as: a diff, a test report, a link, counts, or JSON. All of it is untrusted text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from pydantic import BaseModel, ValidationError

from corral.jobs.code_generation.result import CodeGenerationResult
from corral.jobs.codebase_indexing.payload import IndexingResult
from corral.jobs.pr_creation.payload import PrResult
from corral.jobs.test_execution.report import TestReport
from corral.pipeline import PipelineResult
from corral.queue.retry import FailedAttempt, failed_attempt

if TYPE_CHECKING:
    from corral.queue.status import JobStatus

_SHOWN_CHARACTERS: Final = 200_000
_SHOWN_DIFF_LINES: Final = 5_000
_MINUTE_S: Final = 60
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400
#: How a result is shown, its model, and a field that no other has.
_SHAPES: Final[tuple[tuple[str, type[BaseModel], str], ...]] = (
    ("generation", CodeGenerationResult, "ended"),
    ("pipeline", PipelineResult, "pullRequest"),
    ("tests", TestReport, "cases"),
    ("pull-request", PrResult, "number"),
    ("index", IndexingResult, "chunks"),
)


@dataclass(frozen=True, slots=True)
class DiffLine:
    """One line of a unified diff."""

    kind: str
    """``file``, ``hunk``, ``added``, ``removed`` or ``same``."""
    text: str


@dataclass(frozen=True, slots=True)
class Moment:
    """One thing in a job's life."""

    name: str
    at: datetime | None
    detail: str = ""


def plain(value: Any) -> Any:
    """Models as what they are on the wire."""
    return value.model_dump(mode="json", by_alias=True) if isinstance(value, BaseModel) else value


def pretty(value: Any) -> str:
    """Anything as indented JSON, cut when it is very long."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}\n… {len(text):,} characters in all"


def diff_lines(diff: str) -> list[DiffLine]:
    """A unified diff, line by line."""
    lines = diff.splitlines()
    shown = [DiffLine(_kind_of(line), line) for line in lines[:_SHOWN_DIFF_LINES]]
    if len(lines) > len(shown):
        shown.append(DiffLine("hunk", f"… {len(lines):,} lines in all"))
    return shown


def _kind_of(line: str) -> str:
    if line.startswith(("diff --git", "--- ", "+++ ", "index ", "new file", "deleted file", "similarity", "rename ")):
        return "file"
    if line.startswith("@@"):
        return "hunk"
    return {"+": "added", "-": "removed"}.get(line[:1], "same")


def shape_of(result: Any) -> tuple[str, Any]:
    """What a result is shown as, and the result with all the fields that this needs.

    Returns:
        ``generation``, ``pipeline``, ``tests``, ``pull-request``, ``index``, ``diff``, ``json`` or ``none``. A
        worker elsewhere may have stored something that only looks like one of these; it is then ``json``.
    """
    value = plain(result)
    if value is None:
        return "none", None
    if isinstance(value, str) and value.startswith("diff --git "):
        return "diff", value
    for shape, model, telling in _SHAPES:
        if isinstance(value, Mapping) and telling in value:
            try:
                return shape, plain(model.model_validate(value))
            except ValidationError:
                break
    return "json", value


def safe_url(value: Any) -> str | None:
    """An address that a link may have: ``javascript:`` is none."""
    if not isinstance(value, str):
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    return value if parts.scheme in {"http", "https"} and parts.netloc else None


def pull_request_path(shape: str, result: Any, project_id: str | None) -> str | None:
    """Where the dashboard shows the pull request that a job opened; None when its forge does."""
    if project_id is None or shape not in {"pull-request", "pipeline"}:
        return None
    found = result if shape == "pull-request" else result["pullRequest"]
    if not found or safe_url(found["url"]) is not None:
        return None
    return f"/projects/{quote(project_id, safe='')}/pulls/{found['number']}"


def duration(seconds: float | None) -> str:
    """For people: ``120 ms``, ``3.2 s``, ``4 min 10 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds is None:
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR_S:
        return _of_two(whole // _MINUTE_S, "min", whole % _MINUTE_S, "s")
    if whole < _DAY_S:
        return _of_two(whole // _HOUR_S, "h", whole % _HOUR_S // _MINUTE_S, "min")
    return _of_two(whole // _DAY_S, "d", whole % _DAY_S // _HOUR_S, "h")


def _of_two(many: int, unit: str, rest: int, smaller: str) -> str:
    return f"{many} {unit} {rest} {smaller}" if rest else f"{many} {unit}"


def peer(address: str) -> str:
    """Where a worker connects from: a unix socket's path says nothing but that it is on the server's machine."""
    return "a socket on Redis' machine" if "/" in address else address


def age(moment: datetime | None) -> str:
    """How long ago."""
    return "–" if moment is None else duration(max(0.0, (datetime.now(UTC) - moment).total_seconds()))


def waited(job: JobStatus) -> float | None:
    """Seconds from when a job was due to its last start, or until now; of one that isn't due yet, None."""
    if job.created_at is None:
        return None
    due = job.created_at + timedelta(milliseconds=job.delay_ms)
    until = job.started_at or datetime.now(UTC)
    return None if until < due else (until - due).total_seconds()


def ran(job: JobStatus) -> float | None:
    """Seconds that the last attempt took, or has taken so far."""
    if job.started_at is None:
        return None
    return max(0.0, ((job.finished_at or datetime.now(UTC)) - job.started_at).total_seconds())


def failures(job: JobStatus) -> list[FailedAttempt]:
    """The failed attempts whose traces are kept, oldest first, each with its number."""
    return [
        one if one.number is not None else replace(one, number=place)
        for place, one in enumerate(map(failed_attempt, job.stacktrace), start=1)
    ]


def timeline(job: JobStatus) -> list[Moment]:
    """A job's life, in order; attempts that failed in a worker of another kind have no time."""
    moments = [Moment("Added", job.created_at, f"priority {job.priority}")]
    moments += [Moment(f"Attempt {one.number} failed", one.at, one.summary) for one in failures(job)]
    if job.crashes:
        moments.append(Moment("Workers lost", None, f"{job.crashes} died or lost their lease with it"))
    if job.started_at is not None:
        moments.append(
            Moment(
                "Started" if len(moments) == 1 else "Started again",
                job.started_at,
                f"by {job.worker}" if job.worker else "",
            )
        )
    if job.finished_at is not None:
        took = duration((job.finished_at - job.started_at).total_seconds()) if job.started_at else "–"
        moments.append(Moment(job.state.value.capitalize(), job.finished_at, f"after {took}"))
    return moments
