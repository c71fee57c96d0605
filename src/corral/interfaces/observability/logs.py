"""Logs: JSON for machines or lines for people, with the job and the trace that they belong to, and secrets masked."""

from __future__ import annotations

import json
import logging
import re
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

#: What the current task works on: ``job_id``, ``job_type``, ``project_id``, ``user_id``, ``attempt``, ``trace_id``.
job_fields: ContextVar[dict[str, Any] | None] = ContextVar("corral_job_fields", default=None)

_SECRETS: Final = (
    (re.compile(r"corral_([0-9a-f]{16})_[A-Za-z0-9_-]{43}"), r"corral_\1_***"),
    (re.compile(r"\b(?:ghp|gho|ghs|ghu|github_pat|glpat|xox[abp])[-_][A-Za-z0-9_-]{16,}"), "***"),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{16,}"), "***"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"), "***"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), r"\1 ***"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@"), r"\1:***@"),
    (re.compile(r"(?i)\b(password|passwd|secret|token|api[_-]?key)(\"?\s*[=:]\s*\"?)[^\s\"',;&]{4,}"), r"\1\2***"),
)


def mask_secrets(text: str) -> str:
    """Hide what looks like a credential."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": mask_secrets(record.getMessage()),
            **(job_fields.get() or {}),
        }
        if record.exc_info:
            entry["exception"] = mask_secrets(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False, default=str)


class ConsoleFormatter(logging.Formatter):
    """A line for people; the job behind it in brackets."""

    def format(self, record: logging.LogRecord) -> str:
        """Make the line."""
        fields = job_fields.get() or {}
        where = f" [{fields.get('job_type')} {fields.get('job_id')}]" if fields else ""
        stamp = f"{datetime.fromtimestamp(record.created).astimezone():%H:%M:%S}"
        line = f"{stamp} {record.levelname:<7} {record.name}: {mask_secrets(record.getMessage())}{where}"
        if record.exc_info:
            line += "\n" + mask_secrets(self.formatException(record.exc_info))
        return line


def configure_logging(
    form: Literal["json", "console"] = "console", *, level: int = logging.INFO, stream: TextIO | None = None
) -> None:
    """Let everything that logs write in one form, to standard error unless said otherwise."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else ConsoleFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
