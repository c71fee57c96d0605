"""What is kept in a job's hash, in BullMQ's spelling, and back.

The one place where camelCase, BullMQ's short option names, milliseconds and msgpack exist.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgpack

#: BullMQ shortens these options in Redis (source: ``optsEncodeMap`` of its Node and Python packages).
_SHORT = {
    "deduplication": "de",
    "failParentOnFailure": "fpof",
    "continueParentOnFailure": "cpof",
    "ignoreDependencyOnFailure": "idof",
    "removeDependencyOnFailure": "rdof",
    "keepLogs": "kl",
    "telemetryMetadata": "tm",
}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONG = {short: long for long, short in _SHORT.items()}


def encode_options(options: Mapping[str, Any]) -> bytes:
    """Pack a job's options, given in BullMQ's long names, as its scripts take them."""
    return packed({_SHORT.get(name, name): value for name, value in options.items()})


def packed(value: Any) -> bytes:
    """Pack a script's argument as msgpack."""
    result: bytes = msgpack.packb(value, use_bin_type=True)
    return result


@lru_cache(maxsize=1024)
def decode_options(text: str) -> Mapping[str, Any]:
    """Read a job's options. The result is shared between jobs: do not change it."""
    try:
        options = json.loads(text) if text else {}
    except ValueError:
        return {}
    if not isinstance(options, dict):
        return {}
    return {_LONG.get(str(name), str(name)): value for name, value in options.items()}


def fields(flat: Sequence[str]) -> dict[str, str]:
    """Make a mapping of a flat list of names and values, as HGETALL answers."""
    # Two slices beat one iterator taken twice, and every claimed job passes here; HGETALL's answer is always even.
    return dict(zip(flat[::2], flat[1::2], strict=False))


def instant(ms: str | float | None) -> datetime | None:
    """Read BullMQ's milliseconds since 1970 as an aware instant; None for what is missing or is no number."""
    if ms is None:
        return None
    try:
        # Half the time of ``fromtimestamp`` with a zone, and every claimed job passes here.
        return _EPOCH + timedelta(0, 0, 0, float(ms))
    except (ValueError, OverflowError):
        return None


@dataclass(slots=True)
class JobRecord:
    """A job's hash, as read; nothing in it is trusted. Not to be changed: freezing it would cost more than the rest."""

    id: str
    raw: Mapping[str, str]

    @property
    def name(self) -> str:
        """The job's name."""
        return self.raw.get("name", "")

    @property
    def data(self) -> str:
        """The payload, as JSON text."""
        return self.raw.get("data", "{}")

    @property
    def options(self) -> Mapping[str, Any]:
        """The options, in BullMQ's long names."""
        return decode_options(self.raw.get("opts", ""))

    def number(self, name: str) -> int:
        """A counter of the hash; 0 when it is missing."""
        text = self.raw.get(name)
        if not text:
            return 0
        try:
            return int(text) if text.isdecimal() else int(float(text))
        except (ValueError, OverflowError):
            return 0

    @property
    def attempts_made(self) -> int:
        """Attempts that have ended."""
        return self.number("atm") if "atm" in self.raw else self.number("attemptsMade")

    @property
    def crashes(self) -> int:
        """How often a worker lost it."""
        return self.number("stc")

    @property
    def starts(self) -> int:
        """How often a worker has claimed it, since it was added or somebody put it back; at least 1."""
        return self.number("ats") or 1

    @property
    def progress(self) -> Any:
        """What its handler reported last; None when that was nothing."""
        text = self.raw.get("progress")
        return None if text is None or text == "0" else decode_json(text)

    @property
    def max_attempts(self) -> int:
        """How many attempts it gets; at least 1."""
        value = self.options.get("attempts")
        return value if isinstance(value, int) and value > 1 else 1

    @property
    def deferred_failure(self) -> str | None:
        """Why the next worker that claims it has to fail it at once."""
        return self.raw.get("defa")

    @property
    def scheduler_id(self) -> str | None:
        """The job scheduler that made it."""
        return self.raw.get("rjk")

    @property
    def stacktrace(self) -> list[str]:
        """One text per failed attempt, oldest first."""
        traces = decode_json(self.raw.get("stacktrace"), default=[])
        return [str(trace) for trace in traces] if isinstance(traces, list) else []


def decode_json(text: str | None, *, default: Any = None) -> Any:
    """Read JSON that somebody else wrote; ``default`` when there is none or it is broken."""
    if text is None or text == "":
        return default
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return default
