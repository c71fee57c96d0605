"""A model's answer as the response cache keeps it.

A line of numbers and words, and behind it the texts as they are: escaping them into JSON and back would cost more than
fetching them, and so would checking by a schema what nobody but ``pack`` writes.

    stop 4 42 0 17 310 25 0 0.0013⏎modeltext…tool calls as JSON…native…

The line has why the model stopped; the lengths in bytes of its name, its text, its tool calls and the provider's own
form; input, output and cached input tokens; and the price in US dollars, or ``-``.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter

from corral.adapters.llm.port import Finish, ModelAnswer, ToolCall, Usage

_D = TypeVar("_D", bound=BaseModel)

_CALLS = TypeAdapter(tuple[ToolCall, ...])
_FINISH = {finish.value.encode(): finish for finish in Finish}
_UNPRICED = b"-"


def pack(answer: ModelAnswer) -> bytes:
    """What to store; whether it came from the cache is not a part of it."""
    model, text, native = answer.model.encode(), answer.text.encode(), (answer.native or "").encode()
    calls = _CALLS.dump_json(answer.tool_calls) if answer.tool_calls else b""
    usage = answer.usage
    head = b"%s %d %d %d %d %d %d %d %s\n" % (
        answer.finish.value.encode(), len(model), len(text), len(calls), len(native),
        usage.input_tokens, usage.output_tokens, usage.cached_input_tokens,
        _UNPRICED if usage.usd is None else repr(usage.usd).encode(),
    )  # fmt: skip
    return b"".join((head, model, text, calls, native))


def unpack(stored: bytes) -> ModelAnswer:
    """The answer, marked as one of the cache's.

    Raises:
        ValueError: This is no whole answer.
    """
    newline = stored.index(b"\n")
    why, model_length, text_length, calls_length, native_length, given, said, cached, usd = stored[:newline].split(b" ")
    finish = _FINISH.get(why)
    model_at = newline + 1
    text_at = model_at + int(model_length)
    calls_at = text_at + int(text_length)
    native_at = calls_at + int(calls_length)
    in_order = model_at <= text_at <= calls_at <= native_at <= len(stored)
    if finish is None or not in_order or native_at + int(native_length) != len(stored):
        raise ValueError("this is no whole answer")
    return _made(
        ModelAnswer,
        {
            "text": str(memoryview(stored)[text_at:calls_at], "utf-8"),
            "tool_calls": _CALLS.validate_json(stored[calls_at:native_at]) if native_at > calls_at else (),
            "finish": finish,
            "usage": _made(
                Usage,
                {
                    "input_tokens": int(given),
                    "output_tokens": int(said),
                    "cached_input_tokens": int(cached),
                    "usd": None if usd == _UNPRICED else float(usd),
                },
            ),
            "model": stored[model_at:text_at].decode(),
            "native": stored[native_at:].decode() if native_at < len(stored) else None,
            "from_cache": True,
        },
    )


def _made(kind: type[_D], fields: dict[str, Any]) -> _D:
    """As unpickling makes it: each field's type is known here, and checking it again costs more than all the rest."""
    made = kind.__new__(kind)
    made.__setstate__(
        {
            "__dict__": fields,
            "__pydantic_fields_set__": set(fields),
            "__pydantic_extra__": None,
            "__pydantic_private__": None,
        }
    )
    return made
