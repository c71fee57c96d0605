"""Writes report events; shared by the reporters of this folder, inside the sandbox."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Set

_MESSAGE_CHARACTERS = 2000
_TRACE_CHARACTERS = 8000
_OUTPUT_CHARACTERS = 8000
_ROOT = os.path.realpath(os.environ.get("CORRAL_WORKSPACE", "."))


def write(event: Dict[str, Any]) -> None:
    """Append one event; several processes may do so at once."""
    path = os.environ.get("CORRAL_REPORT")
    if not path:
        return
    line = json.dumps(event, ensure_ascii=True, default=str) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, line.encode("ascii"))
    finally:
        os.close(descriptor)


def case(
    *,
    identity: str,
    file: Optional[str],
    name: str,
    outcome: str,
    seconds: float,
    message: str = "",
    trace: str = "",
    output: str = "",
) -> None:
    """Report that a case has ended."""
    write(
        {
            "event": "case",
            "id": identity,
            "file": file,
            "name": name,
            "outcome": outcome,
            "seconds": round(seconds, 6),
            "message": message[:_MESSAGE_CHARACTERS] or None,
            "trace": _ends(trace, _TRACE_CHARACTERS),
            "output": _ends(output, _OUTPUT_CHARACTERS),
        }
    )


def _ends(text: str, characters: int) -> Optional[str]:
    """Keep the beginning and the end of a long text."""
    if len(text) > characters:
        half = characters // 2
        text = text[:half] + "\n[...]\n" + text[-half:]
    return text or None


def relative(path: Optional[str]) -> Optional[str]:
    """Return a path as seen from the root of the worktree; None when it lies elsewhere."""
    if not path:
        return None
    full = os.path.realpath(path)
    if full == _ROOT or not full.startswith(_ROOT + os.sep):
        return None
    return full[len(_ROOT) + 1 :].replace(os.sep, "/")


class Selection:
    """Which files and cases the run is limited to."""

    def __init__(self) -> None:
        """Read it from the file that ``CORRAL_SELECT`` names; without one, everything is selected."""
        self.files: Set[str] = set()
        self.cases: Set[str] = set()
        path = os.environ.get("CORRAL_SELECT")
        if path:
            with open(path, encoding="utf-8") as file:
                content: Dict[str, List[str]] = json.load(file)
            self.files = set(content.get("files", ()))
            self.cases = set(content.get("cases", ()))

    def has_file(self, path: Optional[str]) -> bool:
        """Whether a file (from the root of the worktree) is to be run."""
        return not self.files or path in self.files

    def has_case(self, identity: str) -> bool:
        """Whether a case is to be run."""
        return not self.cases or identity in self.cases
