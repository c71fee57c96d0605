"""What the forges' HTTP answers have in common: addresses, time-outs, rate limits, and what their errors mean."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from corral.adapters.forge.port import Refusal, Refused
from corral.errors import ConfigurationError, ForgeFailed

_DEFAULT_PAUSE: Final = timedelta(minutes=1)
_LONGEST_PAUSE: Final = timedelta(hours=1, minutes=5)
_MAX_QUOTED: Final = 400


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer.

    Attributes:
        status: The HTTP status.
        headers: By lower-case name.
        body: Decoded JSON, or None when there is none.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: Any = field(repr=False)

    @property
    def is_error(self) -> bool:
        """Whether it is anything but a success."""
        return not HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES


def decoded(content: bytes) -> Any:
    """JSON, or the text when it is none, or None when there is nothing."""
    if not content:
        return None
    try:
        return json.loads(content)
    except ValueError:
        return content[:2000].decode("utf-8", "replace")


def said(body: Any) -> str:
    """What the forge said, on one line, bounded: its message and the errors that it lists."""
    parts: list[str] = []

    def gather(value: Any, name: str = "") -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                if key not in {"documentation_url", "url", "status", "resource", "code"}:
                    gather(inner, str(key))
        elif isinstance(value, list):
            for inner in value:
                gather(inner, name)
        elif value not in (None, ""):
            parts.append(f"{name} {value}" if name == "field" else str(value))

    gather(body)
    return " / ".join(" ".join(part.split()) for part in dict.fromkeys(parts))[:_MAX_QUOTED] or "no message"


def pause_asked(answer: Answer) -> timedelta | None:
    """How long the forge asks to be left alone: ``Retry-After``, else the reset time of a used-up limit."""
    headers = answer.headers
    if (after := headers.get("retry-after")) is not None:
        if after.isdigit():
            return _bounded(timedelta(seconds=int(after)))
        try:
            return _bounded(parsedate_to_datetime(after) - datetime.now(UTC))
        except (TypeError, ValueError):
            return _DEFAULT_PAUSE
    for name in ("x-ratelimit-", "ratelimit-"):
        reset = headers.get(f"{name}reset", "")
        if headers.get(f"{name}remaining") == "0" and reset.isdigit():
            return _bounded(timedelta(seconds=int(reset) - time.time() + 1))
    return None


def _bounded(pause: timedelta) -> timedelta:
    return min(max(pause, timedelta(seconds=1)), _LONGEST_PAUSE)


def transient_failure(refused: Refused, operation: str, answer: Answer) -> ForgeFailed | None:
    """The error for a rate limit or a 5xx answer, which are to be tried again; None for any other answer."""
    pause = pause_asked(answer)
    message = said(answer.body)
    limited = answer.status == HTTPStatus.TOO_MANY_REQUESTS or (
        answer.status == HTTPStatus.FORBIDDEN
        and (pause is not None or re.search(r"rate limit|abuse detection", message, re.IGNORECASE) is not None)
    )
    if limited:
        pause = pause or _DEFAULT_PAUSE
        return refused(
            Refusal.RATE_LIMITED,
            operation,
            f"asks to be left alone for {pause.total_seconds():.0f} s: {message}",
            retry_after=pause,
        )
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return refused(Refusal.UNAVAILABLE, operation, f"answered {answer.status}: {message}", retry_after=pause)
    return None


def owner_and_name(refused: Refused, repository: str, *, web: str, operation: str = "look up") -> str:
    """The path of a repository on its forge, ``owner/name``.

    A token must go to no other host than the one it is for, so the address must be on ``web``.

    Args:
        refused: Makes the errors.
        repository: The project's address.
        web: The forge's own address for people and for git.
        operation: For the error.

    Raises:
        ForgeFailed: ``repository_not_found``: it is on another host, or not an address of a repository.
    """
    have, want = urlsplit(repository), urlsplit(web)
    path = have.path.strip("/").removesuffix(".git")
    below = want.path.strip("/")
    if below and path.startswith(f"{below}/"):
        path = path[len(below) + 1 :]
    if (have.scheme, have.netloc) != (want.scheme, want.netloc) or not re.fullmatch(r"[\w.-]+(?:/[\w.-]+)+", path):
        raise refused(
            Refusal.REPOSITORY_NOT_FOUND,
            operation,
            f"expected a repository as {web.rstrip('/')}/owner/name, got {repository!r}",
        )
    return path


def checked_address(name: str, address: str) -> str:
    """An address without a trailing slash.

    Raises:
        ConfigurationError: It is no http(s) address, or has a user or a password in it.
    """
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ConfigurationError(f"{name}: expected https://host, without a user or a token, got {parts.hostname!r}")
    return address.rstrip("/")
