from __future__ import annotations

import gc
from typing import Any

import pytest

from corral.adapters.llm.port import Message, ModelRequest, Role, Tool, ToolCall
from corral.adapters.llm.request_hash import _seen, request_hash
from corral.adapters.llm.response_cache import ResponseCache

CALL = ToolCall(id="c", name="look", arguments="{}")
FIRST = Message(role=Role.USER, text="Is it?")
TURN = Message(role=Role.ASSISTANT, text="I look.", tool_calls=(CALL,), native='{"signed": 1}')
LAST = Message(role=Role.TOOL, text="yes", tool_call_id="c", tool_name="look")
TOOL = Tool(name="look", description="Look.", parameters="{}")
REQUEST = ModelRequest(system="s", messages=(FIRST, TURN, LAST), tools=(TOOL,))

OTHER: dict[type, dict[str, Any]] = {
    Message: {
        "role": Role.USER, "text": "other", "tool_calls": (CALL, CALL), "tool_call_id": "d", "tool_name": "other",
        "native": "other",
    },
    ToolCall: {"id": "d", "name": "other", "arguments": "[]"},
    Tool: {"name": "other", "description": "Other.", "parameters": "[]"},
    ModelRequest: {
        "system": "t", "messages": (FIRST,), "tools": (), "max_tokens": 1, "temperature": 0.0, "seed": 0,
        "stop": ("x",), "output_schema": {},
    },
}  # fmt: skip


def test_no_field_is_forgotten_here() -> None:
    assert {kind: set(fields) for kind, fields in OTHER.items()} == {
        kind: set(kind.model_fields) for kind in (Message, ToolCall, Tool, ModelRequest)
    }


@pytest.mark.parametrize("field", OTHER[ModelRequest])
def test_every_field_of_a_request_decides(field: str) -> None:
    changed = REQUEST.model_copy(update={field: OTHER[ModelRequest][field]})
    assert request_hash("m", changed) != request_hash("m", REQUEST)


@pytest.mark.parametrize("field", OTHER[Message])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_every_field_of_every_message_decides(field: str, at: int) -> None:
    messages = list(REQUEST.messages)
    value = OTHER[Message][field]
    if getattr(messages[at], field) == value:
        value = Role.ASSISTANT
    messages[at] = messages[at].model_copy(update={field: value})
    assert request_hash("m", REQUEST.model_copy(update={"messages": tuple(messages)})) != request_hash("m", REQUEST)


@pytest.mark.parametrize("field", OTHER[ToolCall])
def test_every_field_of_a_tool_call_decides(field: str) -> None:
    call = CALL.model_copy(update={field: OTHER[ToolCall][field]})
    turn = TURN.model_copy(update={"tool_calls": (call,)})
    for messages in ((FIRST, turn, LAST), (FIRST, turn)):
        same = (*(message if message is not turn else TURN for message in messages),)
        assert request_hash("m", REQUEST.model_copy(update={"messages": messages})) != request_hash(
            "m", REQUEST.model_copy(update={"messages": same})
        )


@pytest.mark.parametrize("field", OTHER[Tool])
def test_every_field_of_a_tool_decides(field: str) -> None:
    changed = REQUEST.model_copy(update={"tools": (TOOL.model_copy(update={field: OTHER[Tool][field]}),)})
    assert request_hash("m", changed) != request_hash("m", REQUEST)


def test_the_version_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ResponseCache.key("m", REQUEST), ResponseCache.key("m", {"prompt": "p"})
    for module in ("request_hash", "response_cache"):
        monkeypatch.setattr(f"corral.adapters.llm.{module}.VERSION", "later")
    later = ResponseCache.key("m", REQUEST), ResponseCache.key("m", {"prompt": "p"})
    assert all(one != other for one, other in zip(keys, later, strict=True))


def test_the_model_decides() -> None:
    assert request_hash("m", REQUEST) != request_hash("n", REQUEST)


def test_equal_requests_have_one_hash_whichever_part_was_seen_before() -> None:
    fresh = ModelRequest.model_validate_json(REQUEST.model_dump_json())
    assert fresh.messages[0] is not FIRST
    assert request_hash("m", fresh) == request_hash("m", REQUEST) == request_hash("m", fresh)
    # As the last message of one request and an earlier one of the next.
    longer = ModelRequest(system="s", messages=(*REQUEST.messages, FIRST), tools=(TOOL,))
    anew = ModelRequest.model_validate_json(longer.model_dump_json())
    assert request_hash("m", longer) == request_hash("m", anew)


def test_without_the_native_form_two_that_read_the_same_are_the_same() -> None:
    other = REQUEST.model_copy(update={"messages": (FIRST, TURN.model_copy(update={"native": "2"}), LAST)})
    assert request_hash("m", REQUEST, with_native=False) == request_hash("m", other, with_native=False)
    assert request_hash("m", REQUEST) != request_hash("m", other)


def test_text_can_not_pass_for_the_shape_around_it() -> None:
    one = ModelRequest(system="a\nb", messages=(Message(role=Role.USER, text="c"),))
    two = ModelRequest(system="a", messages=(Message(role=Role.USER, text="b\nc"),))
    assert request_hash("m", one) != request_hash("m", two)
    split = ModelRequest(system="", messages=(FIRST, Message(role=Role.USER, text="x")))
    joined = ModelRequest(system="", messages=(Message(role=Role.USER, text="Is it?x"),))
    assert request_hash("m", split) != request_hash("m", joined)


def test_what_is_remembered_goes_with_the_message() -> None:
    message = Message(role=Role.USER, text="only here")
    key = id(message)
    request_hash("m", ModelRequest(system="s", messages=(message, LAST)))
    assert key in _seen
    del message
    gc.collect()
    assert key not in _seen
