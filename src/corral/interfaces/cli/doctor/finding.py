"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    NOTE = "note"
    """Not needed for everything, or a thing to know."""
    WARNING = "warning"
    """Works now, and will not under load, on a crash, or in production."""
    FAULT = "fault"
    """Something doesn't work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    verdict: Verdict
    detail: str
    #: How to mend it; empty when there is nothing to mend.
    mend: str = ""
