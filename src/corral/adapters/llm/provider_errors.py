"""What a provider's failure means: its name in the port's terms, whether to try again, and how long to wait."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

from pydantic_ai import exceptions as failures

from corral.errors import LlmFailed

_OVERLOADED_PAUSE = timedelta(seconds=15)
_RATE_LIMIT_PAUSE = timedelta(seconds=30)
_LONGEST_PAUSE = timedelta(minutes=15)

# OpenAI-compatible servers say it in words of their own (llama.cpp, vLLM, Ollama).
_CONTEXT_EXCEEDED = re.compile(r"exceed\w*_context_size|context (size|length|window)|maximum context", re.IGNORECASE)

_Rule = tuple[type[failures.ModelAPIError], str, Callable[[failures.ModelAPIError], bool]]
# The first that fits, so a class stands before its base class.
_RULES: tuple[_Rule, ...] = (
    (failures.ModelRateLimitError, "rate_limited", lambda _: True),
    (failures.ModelQuotaExceededError, "quota_exceeded", lambda _: False),
    (failures.ModelOverloadedError, "overloaded", lambda _: True),
    (failures.ModelUnavailableError, "overloaded", lambda _: True),
    (failures.ModelServerError, "server_error", lambda _: True),
    (failures.ModelTimeoutError, "timed_out", lambda _: True),
    (failures.ModelRequestTimeout, "timed_out", lambda _: True),
    (failures.ModelConnectionError, "unreachable", lambda _: True),
    (failures.ModelContextWindowExceededError, "context_length", lambda _: False),
    (failures.ModelAuthenticationError, "authentication", lambda _: False),
    (failures.ModelNotFoundError, "model_not_found", lambda _: False),
    (failures.ModelRequestRejectedError, "rejected", lambda _: False),
)


def as_llm_failed(error: failures.ModelAPIError, *, service: str) -> LlmFailed:
    """The library's error as the port's.

    Args:
        error: As the library raised it.
        service: The model's name, as in the settings.
    """
    reason, retryable = "malformed_answer", True
    for kind, name, can_retry in _RULES:
        if isinstance(error, kind):
            reason, retryable = name, can_retry(error)
            break
    if reason == "rejected" and _CONTEXT_EXCEEDED.search(str(error.body or error)):
        reason = "context_length"
    pause: timedelta | None = None
    if reason in {"rate_limited", "overloaded"}:
        default = _RATE_LIMIT_PAUSE if reason == "rate_limited" else _OVERLOADED_PAUSE
        pause = default if error.retry_after is None else timedelta(seconds=max(error.retry_after, 0.1))
        pause = min(pause, _LONGEST_PAUSE)
    return LlmFailed(
        f"{service}: {reason.replace('_', ' ')}: {_short(error)}",
        service=service,
        operation="complete",
        retryable=retryable,
        retry_after=pause,
        reason=reason,
    )


def _short(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 500 else text[:500] + "…"
