"""The port: what Corral asks of a language model, and what it gets back.

Everything here is plain, frozen, serialisable data, because requests are hashed (response cache), and answers are
stored (response cache, a job's finished steps).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"
    """Corral, answering a tool call."""


class ToolCall(_Data):
    """The model asks for a tool."""

    id: str
    name: str
    arguments: str
    """As the model wrote them: JSON when it behaved."""


class Message(_Data):
    """One turn of a conversation."""

    role: Role
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """Of an assistant's turn."""
    tool_call_id: str | None = None
    """Of a tool's turn: which call it answers."""
    tool_name: str | None = None
    native: str | None = None
    """Of an assistant's turn: the provider's own form of it (signed reasoning and the like), sent back unchanged."""


class Tool(_Data):
    """A tool that the model may call."""

    name: str
    description: str
    parameters: str
    """JSON schema of the arguments object, as JSON: text, so that a tool can't change once it is made."""


class ModelRequest(_Data):
    """One question to a model. Two equal requests may get the same answer: every field decides it."""

    system: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    max_tokens: int = Field(default=4096, ge=1)
    """Longest answer, in tokens."""
    temperature: float | None = None
    """None leaves it to the provider."""
    seed: int | None = None
    """For models that have one; it tells candidates apart in the response cache too."""
    stop: tuple[str, ...] = ()
    output_schema: dict[str, Any] | None = None
    """JSON schema that the answer's text must follow (structured output)."""


class Usage(_Data):
    """What one answer took."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    """Of ``input_tokens``: read from the provider's own prompt cache."""
    usd: float | None = None
    """None when nobody knows the price."""

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        known = [usd for usd in (self.usd, other.usd) if usd is not None]
        return Usage(
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_input_tokens=self.cached_input_tokens + other.cached_input_tokens,
            usd=sum(known) if known else None,
        )


class Finish(StrEnum):
    """Why the model stopped."""

    STOP = "stop"
    """It had said what it wanted to."""
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    """Cut off at ``max_tokens`` or at the context's end."""
    REFUSAL = "refusal"
    """The model or the provider's filter would not."""


class ModelAnswer(_Data):
    """What the model said."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish: Finish = Finish.STOP
    usage: Usage = Usage()
    model: str = ""
    """Who answered, as the provider names it."""
    native: str | None = None
    """See ``Message.native``."""
    from_cache: bool = False
    """From Corral's response cache: nothing was spent."""

    def as_message(self) -> Message:
        """The answer as the conversation's next turn."""
        return Message(role=Role.ASSISTANT, text=self.text, tool_calls=self.tool_calls, native=self.native)


class ModelTraits(_Data):
    """What a model can do, as far as it decides how Corral works with it."""

    context_tokens: int = 128_000
    """Question and answer together."""
    tools: bool = True
    """Calls tools well enough for an open loop; otherwise Corral follows a fixed workflow."""
    unified_diff: bool = False
    """Writes diffs more reliably than search/replace blocks."""
    usd_per_input_token: float | None = None
    """At a full context, where that is dearer; None when nobody knows the price."""
    usd_per_output_token: float | None = None


OnText = Callable[[str], Awaitable[None]]
"""Gets the answer's text piece by piece, as it comes."""


class LanguageModel(Protocol):
    """A model that answers. Safe to use from many tasks at once."""

    @property
    def name(self) -> str:
        """As in the settings, for example ``anthropic:NAME``; a part of the response cache's key."""
        ...

    @property
    def traits(self) -> ModelTraits:
        """What the model can do."""
        ...

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        """Answer one request; cancelling the task ends the provider's call at once.

        Raises:
            LlmFailed: The provider failed; ``reason`` is one of ``rate_limited``, ``overloaded``, ``unreachable``,
                ``timed_out``, ``server_error``, ``quota_exceeded``, ``authentication``, ``model_not_found``,
                ``context_length``, ``rejected``, ``malformed_answer``. ``retryable`` and ``retry_after`` say what to
                do.
            ModelUnavailable: The model can't be used here; the message says how to mend it.
        """
        ...

    async def close(self) -> None:
        """Release connections. Safe to call twice."""
        ...
