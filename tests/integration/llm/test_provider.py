"""The HTTP side of models, against a server that behaves as providers do on their bad days."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import timedelta
from typing import Any

import pytest
from tests.support.openai_server import OpenAiServer, Reply

from corral.adapters.llm.port import Finish, Message, ModelRequest, Role, Tool, ToolCall
from corral.adapters.llm.provider import open_provider_model
from corral.errors import LlmFailed, ModelUnavailable

QUESTION = ModelRequest(
    system="You are terse.", messages=(Message(role=Role.USER, text="Hello?"),), max_tokens=50, temperature=0.5, seed=3
)


@contextlib.asynccontextmanager
async def model_at(server: Any, **options: Any) -> Any:
    async with server.running():
        model = open_provider_model("openai-compatible", "m", base_url=server.url, api_key="k-1", **options)
        try:
            yield model
        finally:
            await model.close()


async def ask(*replies: Any, request: Any = QUESTION, **options: Any) -> Any:
    server = OpenAiServer(*replies)
    async with model_at(server, **options) as model:
        return await model.complete(request), server


async def test_text_streams_and_everything_is_sent_and_counted() -> None:
    server = OpenAiServer(Reply(pieces=("Hel", "lo", "!")))
    pieces = []

    async def on_text(piece: str) -> Any:
        pieces.append(piece)

    async with model_at(server) as model:
        answer = await model.complete(QUESTION, on_text=on_text)
    assert "".join(pieces) == answer.text == "Hello!"
    assert len([piece for piece in pieces if piece]) == 3
    assert (answer.finish, answer.model) == (Finish.STOP, "m-1")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_input_tokens) == (11, 7, 5)
    [sent] = server.requests
    assert (sent["temperature"], sent["seed"], sent["stream"]) == (0.5, 3, True)
    assert 50 in {sent.get("max_tokens"), sent.get("max_completion_tokens")}
    assert [message["role"] for message in sent["messages"]] == ["system", "user"]
    assert server.keys == ["bearer k-1"]


PARAMETERS = {"type": "object", "properties": {"path": {"type": "string"}}}
TOOL = Tool(name="look", description="Look.", parameters=json.dumps(PARAMETERS))


async def test_tool_calls_come_back_and_their_answers_go_out() -> None:
    first = Reply(pieces=(), tool_calls=[("look", '{"path": "a"}')], finish="tool_calls")
    server = OpenAiServer(first, Reply())
    request = QUESTION.model_copy(update={"tools": (TOOL,)})
    async with model_at(server) as model:
        answer = await model.complete(request)
        assert answer.finish is Finish.TOOL_CALLS
        assert answer.tool_calls == (ToolCall(id="c0", name="look", arguments='{"path":"a"}'),)
        told = Message(role=Role.TOOL, text="nothing", tool_call_id="c0", tool_name="look")
        await model.complete(request.model_copy(update={"messages": (*request.messages, answer.as_message(), told)}))
    sent = server.requests[1]["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert sent[2]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"path":"a"}'}
    assert (sent[3]["tool_call_id"], sent[3]["content"]) == ("c0", "nothing")


async def test_malformed_arguments_reach_the_caller_as_they_are() -> None:
    request = QUESTION.model_copy(update={"tools": (TOOL,)})
    answer, _ = await ask(Reply(pieces=(), tool_calls=[("look", '{"path": "a')], finish="tool_calls"), request=request)
    assert answer.tool_calls[0].name == "look"
    assert '"a' in answer.tool_calls[0].arguments


async def test_a_schema_is_asked_for() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    answer, server = await ask(
        Reply(pieces=('{"n": 1}',)), request=QUESTION.model_copy(update={"output_schema": schema})
    )
    assert answer.text == '{"n": 1}'
    assert server.requests[0]["response_format"]["type"] == "json_schema"


async def test_a_truncated_answer_says_so() -> None:
    answer, _ = await ask(Reply(finish="length"))
    assert answer.finish is Finish.LENGTH


@pytest.mark.parametrize(
    "reply", [Reply(pieces=(), refusal="I won't."), Reply(pieces=("I wo",), finish="content_filter")]
)
async def test_a_refusal_is_no_error(reply: Any) -> None:
    answer, _ = await ask(reply)
    assert answer.finish is Finish.REFUSAL


CONTEXT = {"message": "request (9015 tokens) exceeds the available context size", "type": "exceed_context_size_error"}


@pytest.mark.parametrize(
    ("reply", "reason", "retryable", "pause_s"),
    [
        (Reply(status=429, headers={"Retry-After": "7"}), "rate_limited", True, 7),
        (Reply(status=429), "rate_limited", True, 30),
        (Reply(status=503, headers={"Retry-After": "3"}), "overloaded", True, 3),
        (Reply(status=429, error={"message": "pay", "code": "insufficient_quota"}), "quota_exceeded", False, None),
        (Reply(status=500), "server_error", True, None),
        (Reply(status=401), "authentication", False, None),
        (Reply(status=404), "model_not_found", False, None),
        (Reply(status=400, error=CONTEXT), "context_length", False, None),
        (Reply(status=400, error={"message": "bad", "code": "context_length_exceeded"}), "context_length", False, None),
        (Reply(status=422), "rejected", False, None),
        (Reply(cut_after=2), "unreachable", True, None),
        (Reply(no_finish=True), "malformed_answer", True, None),
        (Reply(garbage=b"{not json"), "malformed_answer", True, None),
    ],
)
async def test_every_failure_has_its_name_and_says_what_to_do(
    reply: Any, reason: str, retryable: Any, pause_s: Any
) -> None:
    server = OpenAiServer(reply)
    async with model_at(server) as model:
        with pytest.raises(LlmFailed) as caught:
            await model.complete(QUESTION)
    assert (caught.value.reason, caught.value.retryable) == (reason, retryable)
    assert caught.value.retry_after == (None if pause_s is None else timedelta(seconds=pause_s))
    assert len(server.requests) == 1, "whether to try again is the queue's decision"
    assert "k-1" not in str(caught.value)


async def test_an_answer_that_falls_silent_is_given_up() -> None:
    with pytest.raises(LlmFailed, match="fell silent") as caught:
        await ask(Reply(stall_after=2), idle_timeout=timedelta(milliseconds=200))
    assert (caught.value.reason, caught.value.retryable) == ("timed_out", True)


async def test_nobody_there_is_unreachable() -> None:
    server = OpenAiServer(Reply())
    async with server.running():
        url = server.url
    model = open_provider_model("openai-compatible", "m", base_url=url)
    with pytest.raises(LlmFailed) as caught:
        await model.complete(QUESTION)
    assert (caught.value.reason, caught.value.retryable) == ("unreachable", True)
    await model.close()


async def test_cancelling_ends_the_providers_call_at_once() -> None:
    server = OpenAiServer(Reply(stall_after=2))
    async with model_at(server) as model:
        task = asyncio.create_task(model.complete(QUESTION))
        await server.stalled.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await server.hung_up.wait()


def test_an_address_is_needed() -> None:
    with pytest.raises(ModelUnavailable, match="CORRAL_MODEL_BASE_URL"):
        open_provider_model("openai-compatible", "m")


@pytest.mark.parametrize(
    ("provider", "variable"),
    [
        ("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY"),
        ("google", r"GOOGLE_API_KEY \(or GEMINI_API_KEY\)"),
    ],
)  # fmt: skip
def test_a_missing_key_says_which(provider: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "GEMINI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ModelUnavailable, match=variable):
        open_provider_model(provider, "some-model")
