"""What a job type is: its name, the models of its payload and result, its handler, and how it is run by default."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any

import pydantic_core
from pydantic import BaseModel, TypeAdapter, ValidationError

from corral.errors import ConfigurationError, PayloadInvalid
from corral.masking import without_credentials
from corral.queue.job import Job, ThreadJob
from corral.queue.options import BackoffStrategy, JobOptions

#: The largest payload or result, as JSON. Redis would take more, and every reader of the job would pay for it.
MAX_JSON_BYTES = 8 * 1024 * 1024

Handler = Callable[..., Any]


class Isolation(StrEnum):
    """Where a handler runs."""

    ASYNC = "async"
    """In the worker's event loop; async functions only."""
    THREAD = "thread"
    """In a thread; plain functions only (their default)."""
    PROCESS = "process"
    """In a process of its own, whose crash fails that one job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimit:
    """At most ``max_jobs`` started in every window of ``duration``, over all workers of the queue."""

    max_jobs: int
    duration: timedelta

    def __post_init__(self) -> None:
        if self.max_jobs < 1 or self.duration < timedelta(milliseconds=1):
            raise ConfigurationError(
                f"rate_limit: expected at least 1 job per at least 1 ms, got {self.max_jobs} per {self.duration}."
            )

    @property
    def duration_ms(self) -> int:
        """The window, in ms."""
        return round(self.duration.total_seconds() * 1000)


@dataclass(frozen=True, kw_only=True, slots=True)
class PerUser:
    """A queue that its users share in turns; a job belongs to the ``userId`` of its payload.

    One user's waiting jobs, however many, delay another user's next job by at most two jobs per lane, whatever the
    language of the worker. Every producer and worker of the queue should declare the same.

    Attributes:
        max_waiting: How many jobs of one user may wait at once, delayed ones included; None sets no bound. A further
            one is refused with ``TooManyJobs``.
        max_active: How many of one user's jobs may run at once, over all workers; None sets no bound.
    """

    max_waiting: int | None = None
    max_active: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_waiting", "max_active"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigurationError(f"per_user.{name}: expected at least 1, or None for no bound, got {value}.")


@dataclass(frozen=True, kw_only=True)
class JobTypeSpec:
    """A declared job type.

    Attributes:
        name: Its name and its queue's.
        payload: The model of its payload: anything that Pydantic validates; None takes any JSON.
        result: The model of its result; None takes anything that has a JSON form.
        handler: Takes a ``Job``, returns the result; None when its workers live elsewhere.
        concurrency: Jobs at once per worker; None takes the worker's.
        timeout: Longest run of one attempt.
        max_crashes: How many workers one job may take down; None takes the worker's.
        aliases: Further job names that its queue may hold, as other producers call them.
        defaults: Options of its jobs where the producer gives none.
        backoffs: Back-off strategies of its own, by name.
        per_user: How its users share the queue; None serves jobs by priority and age alone.
    """

    name: str
    payload: Any = None
    result: Any = None
    handler: Handler | None = None
    concurrency: int | None = None
    rate_limit: RateLimit | None = None
    timeout: timedelta | None = None
    isolation: Isolation = Isolation.ASYNC
    max_crashes: int | None = None
    aliases: frozenset[str] = frozenset()
    defaults: JobOptions = field(default_factory=JobOptions)
    backoffs: Mapping[str, BackoffStrategy] = field(default_factory=dict)
    description: str = ""
    per_user: PerUser | None = None

    def __post_init__(self) -> None:
        check_queue_name(self.name)
        if self.concurrency is not None and self.concurrency < 1:
            raise ConfigurationError(f"{self.name}: concurrency: expected at least 1, got {self.concurrency}.")
        if self.timeout is not None and self.timeout <= timedelta(0):
            raise ConfigurationError(f"{self.name}: timeout: expected more than 0, got {self.timeout}.")

    @cached_property
    def _payload_adapter(self) -> TypeAdapter[Any] | None:
        return None if self.payload is None or self.payload is Any else TypeAdapter(self.payload)

    @cached_property
    def _result_adapter(self) -> TypeAdapter[Any] | None:
        return None if self.result is None or self.result is Any else TypeAdapter(self.result)

    def encode_payload(self, data: Any) -> bytes:
        """Check a payload and make it JSON, camelCase where its model says so.

        Args:
            data: The model itself, or what it validates (a mapping, snake_case or camelCase).

        Raises:
            PayloadInvalid: It doesn't fit; says which field and why.
        """
        adapter = self._payload_adapter
        try:
            if adapter is None:
                text = pydantic_core.to_json(data, by_alias=True, inf_nan_mode="null")
            else:
                checked = adapter.validator.validate_python(data)
                text = adapter.serializer.to_json(checked, by_alias=True, exclude_unset=isinstance(checked, BaseModel))
        except ValidationError as error:
            raise PayloadInvalid(f"The payload of {self.name!r} doesn't fit: {explain(error)}") from error
        except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
            raise PayloadInvalid(f"The payload of {self.name!r} has no JSON form: {error}") from error
        _check_size(text, f"payload of {self.name!r}")
        return text

    def decode_payload(self, text: str) -> Any:
        """Read a stored payload.

        Raises:
            PayloadInvalid: It is no JSON, doesn't fit the model, or is too large.
        """
        if len(text) > MAX_JSON_BYTES:
            raise PayloadInvalid(
                f"The payload of {self.name!r} is too large: {len(text):,} characters; the limit is {MAX_JSON_BYTES:,}."
            )
        adapter = self._payload_adapter
        try:
            # Past the adapter's own methods, whose options nobody here uses: they cost as much as the work.
            return pydantic_core.from_json(text) if adapter is None else adapter.validator.validate_json(text)
        except ValidationError as error:
            raise PayloadInvalid(f"The payload of {self.name!r} doesn't fit: {explain(error)}") from error
        except (ValueError, RecursionError) as error:
            raise PayloadInvalid(f"The payload of {self.name!r} is not JSON: {error}") from error

    def encode_result(self, result: Any) -> bytes:
        """Make a handler's result JSON.

        Raises:
            PayloadInvalid: It doesn't fit the model, has no JSON form, or is too large.
        """
        if result is None:
            return b"null"
        adapter = self._result_adapter
        try:
            if adapter is None:
                text = pydantic_core.to_json(result, by_alias=True, inf_nan_mode="null")
            else:
                text = adapter.serializer.to_json(adapter.validator.validate_python(result), by_alias=True)
        except ValidationError as error:
            raise PayloadInvalid(f"The result of {self.name!r} doesn't fit: {explain(error)}") from error
        except (pydantic_core.PydanticSerializationError, ValueError, RecursionError) as error:
            raise PayloadInvalid(f"The result of {self.name!r} has no JSON form: {error}") from error
        _check_size(text, f"result of {self.name!r}")
        return text

    def decode_result(self, text: str | None) -> Any:
        """Read a stored result, as its model when it has one.

        Raises:
            PayloadInvalid: A worker elsewhere stored what doesn't fit the model.
        """
        if text is None or text == "":
            return None
        adapter = self._result_adapter
        try:
            return pydantic_core.from_json(text) if adapter is None or text == "null" else adapter.validate_json(text)
        except ValidationError as error:
            raise PayloadInvalid(f"The stored result of {self.name!r} doesn't fit: {explain(error)}") from error
        except (ValueError, RecursionError) as error:
            raise PayloadInvalid(f"The stored result of {self.name!r} is not JSON: {error}") from error


def from_handler(name: str, handler: Handler, **options: Any) -> JobTypeSpec:
    """Make a job type of a handler, taking the models from its annotations.

    Raises:
        ConfigurationError: The handler takes no job, or its kind and ``isolation`` don't go together.
    """
    payload, result = _models(name, handler)
    runs_async = _is_async(handler)
    isolation = options.pop("isolation", None)
    chosen = Isolation(isolation) if isolation else (Isolation.ASYNC if runs_async else Isolation.THREAD)
    if chosen is Isolation.ASYNC and not runs_async:
        raise ConfigurationError(f"Handler {name!r} is a plain function: give isolation='thread' or 'process'.")
    if chosen is Isolation.THREAD and runs_async:
        raise ConfigurationError(f"Handler {name!r} is an async function: it runs in the event loop or in a process.")
    return JobTypeSpec(
        name=name,
        payload=options.pop("payload", None) or payload,
        result=options.pop("result", None) or result,
        handler=handler,
        isolation=chosen,
        description=options.pop("description", "") or inspect.getdoc(handler) or "",
        **options,
    )


def check_queue_name(name: str) -> None:
    """Refuse names that can't be a queue's.

    Raises:
        ConfigurationError: Empty, too long, or with white space, control characters or a colon.
    """
    if not name or len(name) > 128 or any(ord(c) < 33 or ord(c) == 127 for c in name) or ":" in name:
        raise ConfigurationError(
            f"A job type's name has 1 to 128 characters without white space or colons, got {name!r}."
        )


def explain(error: ValidationError) -> str:
    """Say in one line which fields are wrong and why; at most five, values cut and without the secrets of addresses."""
    parts = []
    for problem in error.errors(include_url=False, include_context=False)[:5]:
        where = ".".join(str(step) for step in problem["loc"]) or "(whole)"
        got = "" if problem["type"] == "missing" else f", got {_cut(problem['input'])}"
        said = _IN_JSONS_WORDS.get(problem["type"], problem["msg"])
        parts.append(f"{where}: {said[:1].lower()}{said[1:]}{got}")
    more = error.error_count() - len(parts)
    return "; ".join(parts) + (f"; and {more} more" if more > 0 else "") + "."


#: Payloads are JSON to most of those who send them.
_IN_JSONS_WORDS = {
    "dict_type": "input should be an object",
    "extra_forbidden": "there is no such field",
    "frozen_set_type": "input should be a list",
    "list_type": "input should be a list",
    "model_attributes_type": "input should be an object",
    "model_type": "input should be an object",
    "set_type": "input should be a list",
    "tuple_type": "input should be a list",
}


def _cut(value: Any) -> str:
    text = without_credentials(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_size(text: bytes, what: str) -> None:
    if len(text) > MAX_JSON_BYTES:
        raise PayloadInvalid(
            f"The {what} is too large: {len(text):,} bytes of JSON; the limit is {MAX_JSON_BYTES:,}. Keep the bulk "
            "elsewhere (git, an object store) and pass a reference."
        )


def _is_async(handler: Handler) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004 - the method, not whether it can be called


def _models(name: str, handler: Handler) -> tuple[Any, Any]:
    """Read payload and result types from ``(job: Job[Payload]) -> Result``."""
    target = handler if inspect.isroutine(handler) else type(handler).__call__
    try:
        parameters = [
            p
            for p in inspect.signature(handler).parameters.values()
            if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}
        ]
    except (TypeError, ValueError):
        return None, None
    if not parameters:
        raise ConfigurationError(
            f"Handler {name!r} takes no job: write `async def {name}(job: Job[Payload]) -> Result`."
        )
    try:
        hints = typing.get_type_hints(target)
    except NameError as error:
        raise ConfigurationError(
            f"Handler {name!r}: its annotations can't be read ({error}); define the models at module level."
        ) from error
    hint = hints.get(parameters[0].name)
    arguments = typing.get_args(hint) if typing.get_origin(hint) in {Job, ThreadJob} else ()
    payload = arguments[0] if arguments and not isinstance(arguments[0], typing.TypeVar) else None
    result = hints.get("return")
    return payload, None if result is type(None) else result
