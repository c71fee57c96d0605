"""The hosted providers' own protocols, spoken by the real client library to servers on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from tests.support.anthropic_server import AnthropicServer
from tests.support.gemini_server import GeminiServer
from tests.support.model_server import ModelServer, Reply
from tests.support.responses_server import ResponsesServer

from corral.adapters.llm.port import Finish, Message, ModelAnswer, ModelRequest, Role, Tool, ToolCall
from corral.adapters.llm.provider import ProviderModel, open_provider_model
from corral.errors import LlmFailed


@dataclass(frozen=True, kw_only=True)
class Provider:
    """How to reach one provider's server, and what it calls things."""

    server: type[ModelServer]
    model: str
    key: str
    address: str
    path: str
    max_tokens: tuple[str, ...]
    """Where a request says how long the answer may be."""


PROVIDERS = {
    "openai": Provider(
        server=ResponsesServer, model="gpt-5-mini", key="OPENAI_API_KEY", address="OPENAI_BASE_URL",
        path="/v1/responses", max_tokens=("max_output_tokens",),
    ),
    "anthropic": Provider(
        server=AnthropicServer, model="claude-sonnet-5", key="ANTHROPIC_API_KEY", address="ANTHROPIC_BASE_URL",
        path="/v1/messages", max_tokens=("max_tokens",),
    ),
    "google": Provider(
        server=GeminiServer, model="gemini-2.5-flash", key="GOOGLE_API_KEY", address="GOOGLE_GEMINI_BASE_URL",
        path="/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        max_tokens=("generationConfig", "maxOutputTokens"),
    ),
}  # fmt: skip
QUESTION = ModelRequest(system="You are terse.", messages=(Message(role=Role.USER, text="Hello?"),), max_tokens=50)
TOOL = Tool(
    name="look",
    description="Look.",
    parameters=json.dumps({"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}),
)
CALL = ("look", '{"path": "a"}')


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextlib.asynccontextmanager
async def opened(provider: str, *replies: Reply, **options: Any) -> AsyncIterator[tuple[ProviderModel, ModelServer]]:
    """A model of the provider whose client talks to a server that gives these replies."""
    told = PROVIDERS[provider]
    async with told.server(*replies).running() as server:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv(told.key, "k-secret")
            environment.setenv(told.address, server.url)
            model = open_provider_model(provider, told.model, **options)
        try:
            yield model, server
        finally:
            await model.close()


async def failure(provider: str, reply: Reply, **options: Any) -> tuple[LlmFailed, ModelServer]:
    async with opened(provider, reply, **options) as (model, server):
        with pytest.raises(LlmFailed) as caught:
            await model.complete(QUESTION)
    return caught.value, server


async def test_text_streams_and_usage_and_cost_are_counted(provider: str) -> None:
    pieces: list[str] = []

    async def on_text(piece: str) -> None:
        pieces.append(piece)

    async with opened(provider, Reply(pieces=("Hel", "lo", "!"))) as (model, server):
        answer = await model.complete(QUESTION, on_text=on_text)
    assert [piece for piece in pieces if piece] == ["Hel", "lo", "!"]
    assert (answer.text, answer.finish, answer.model) == ("Hello!", Finish.STOP, PROVIDERS[provider].model)
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.cached_input_tokens) == (11, 7, 5)
    assert answer.usage.usd is not None
    assert 0 < answer.usage.usd < 0.001
    assert server.keys in (["bearer k-secret"], ["k-secret"])
    assert [path.partition("?")[0] for path in server.paths] == [PROVIDERS[provider].path]
    sent: Any = server.requests[0]
    for name in PROVIDERS[provider].max_tokens:
        sent = sent[name]
    assert sent == 50
    assert "You are terse." in json.dumps(server.requests[0])


async def test_a_tokens_price_is_known_before_it_is_spent_and_never_below_what_is_charged(provider: str) -> None:
    async with opened(provider, Reply()) as (model, _):
        answer = await model.complete(QUESTION)
    asked, answered, cost = model.traits.usd_per_input_token, model.traits.usd_per_output_token, answer.usage.usd
    assert asked is not None
    assert answered is not None
    assert cost is not None
    assert cost <= asked * 11 + answered * 7 < 3 * cost, "11 and 7 are what the server counts, 5 of them cached"


def test_nobody_knows_the_price_of_a_server_of_ones_own() -> None:
    model = open_provider_model("openai-compatible", "m", base_url="http://127.0.0.1:1/v1")
    assert (model.traits.usd_per_input_token, model.traits.usd_per_output_token) == (None, None)


@pytest.mark.parametrize(
    ("keys", "used"),
    [
        ({"GEMINI_API_KEY": "k-gemini"}, "k-gemini"),
        ({"GOOGLE_API_KEY": "k-google"}, "k-google"),
        ({"GEMINI_API_KEY": "k-gemini", "GOOGLE_API_KEY": "k-google"}, "k-google"),
    ],
)
async def test_google_has_two_variables_for_its_key(
    keys: dict[str, str], used: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with GeminiServer(Reply()).running() as server:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", server.url)
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        model = open_provider_model("google", PROVIDERS["google"].model)
        await model.complete(QUESTION)
        await model.close()
    assert server.keys == [used]


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        (("a \ud83d", "\ude00 b"), ["a ", "\U0001f600 b"]),
        (("a \ud83d", "b"), ["a ", "\ufffdb"]),
        (("a \ude00",), ["a \ufffd"]),
        (("a \ud83d",), ["a ", "\ufffd"]),
    ],
    ids=["torn in two", "the first half alone", "the second half alone", "at the end"],
)
async def test_a_character_that_was_torn_is_mended(provider: str, pieces: tuple[str, ...], told: list[str]) -> None:
    heard: list[str] = []

    async def on_text(piece: str) -> None:
        heard.append(piece)

    request = QUESTION.model_copy(update={"tools": (TOOL,)})
    calls = (("look", json.dumps({"path": "x"}).replace("x", pieces[0])),)
    async with opened(provider, Reply(pieces=pieces, tool_calls=calls, finish="tool_calls")) as (model, _):
        answer = await model.complete(request, on_text=on_text)
        again = request.model_copy(update={"messages": (*request.messages, answer.as_message(), *request.messages)})
        await model.complete(again)
    assert heard == told
    assert answer.text == "".join(told)
    assert json.loads(answer.tool_calls[0].arguments) == {"path": "a \ufffd"}
    assert ModelAnswer.model_validate_json(answer.model_dump_json()) == answer


async def test_tool_calls_come_back_and_their_answers_go_out(provider: str) -> None:
    request = QUESTION.model_copy(update={"tools": (TOOL,)})
    async with opened(provider, Reply(pieces=("I look.",), tool_calls=(CALL,), finish="tool_calls"), Reply()) as (
        model,
        server,
    ):
        answer = await model.complete(request)
        assert (answer.text, answer.finish) == ("I look.", Finish.TOOL_CALLS)
        [call] = answer.tool_calls
        assert (call.name, json.loads(call.arguments)) == ("look", {"path": "a"})
        told = Message(role=Role.TOOL, text="nothing there", tool_call_id=call.id, tool_name="look")
        messages = (*request.messages, answer.as_message(), told)
        second = await model.complete(request.model_copy(update={"messages": messages}))
    assert second.text == "Hello"
    assert "nothing there" in json.dumps(server.requests[1])
    assert '"look"' in json.dumps(server.requests[1])


async def test_a_conversation_of_another_model_goes_on_here(provider: str) -> None:
    """After a fallback, earlier turns are another provider's: they go out as text and calls."""
    turn = Message(role=Role.ASSISTANT, text="I look.", tool_calls=(ToolCall(id="x1", name="look", arguments="{}"),))
    told = Message(role=Role.TOOL, text="nothing there", tool_call_id="x1", tool_name="look")
    request = QUESTION.model_copy(update={"tools": (TOOL,), "messages": (*QUESTION.messages, turn, told)})
    async with opened(provider, Reply()) as (model, server):
        assert (await model.complete(request)).text == "Hello"
    assert "nothing there" in json.dumps(server.requests[0])


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_malformed_arguments_reach_the_caller(provider: str) -> None:
    """What isn't JSON goes back to the model as an error of its tool, in the loop."""
    request = QUESTION.model_copy(update={"tools": (TOOL,)})
    async with opened(provider, Reply(pieces=(), tool_calls=(("look", '{"path": "a'),), finish="tool_calls")) as (
        model,
        _,
    ):
        answer = await model.complete(request)
    assert [call.name for call in answer.tool_calls] == ["look"]
    assert "a" in answer.tool_calls[0].arguments


async def test_google_says_that_its_own_call_was_malformed() -> None:
    async with opened("google", Reply(pieces=(), finish="MALFORMED_FUNCTION_CALL")) as (model, _):
        with pytest.raises(LlmFailed) as caught:
            await model.complete(QUESTION.model_copy(update={"tools": (TOOL,)}))
    assert (caught.value.reason, caught.value.retryable) == ("malformed_answer", True)


async def test_a_truncated_answer_says_so(provider: str) -> None:
    finish = "max_output_tokens" if provider == "openai" else "length"
    async with opened(provider, Reply(finish=finish)) as (model, _):
        answer = await model.complete(QUESTION)
    assert (answer.text, answer.finish) == ("Hello", Finish.LENGTH)


@pytest.mark.parametrize(
    ("provider", "reply"),
    [
        ("openai", Reply(pieces=(), refusal="I won't.")),
        ("openai", Reply(finish="content_filter")),
        ("anthropic", Reply(refusal="yes")),
        ("anthropic", Reply(pieces=(), refusal="yes")),
        ("google", Reply(refusal="SAFETY")),
        ("google", Reply(refusal="PROHIBITED_CONTENT")),
        ("google", Reply(finish="content_filter")),
        ("google", Reply(pieces=(), finish="PROHIBITED_CONTENT")),
        ("google", Reply(pieces=(), finish="RECITATION")),
    ],
)
async def test_a_refusal_is_an_answer_of_its_own_kind(provider: str, reply: Reply) -> None:
    async with opened(provider, reply) as (model, _):
        assert (await model.complete(QUESTION)).finish is Finish.REFUSAL


def google(status: str, message: str = "no", **details: Any) -> dict[str, Any]:
    kind = "ErrorInfo" if "reason" in details else "RetryInfo"
    told = {"@type": f"type.googleapis.com/google.rpc.{kind}", **details}
    return {"status": status, "message": message, "details": [told] if details else []}


def anthropic(kind: str, message: str = "no") -> dict[str, Any]:
    return {"type": kind, "message": message}


FAILURES = [
    ("openai", Reply(status=429, headers={"Retry-After": "7"}), "rate_limited", 7),
    ("openai", Reply(status=429, headers={"retry-after-ms": "1500"}), "rate_limited", 1.5),
    ("openai", Reply(status=429), "rate_limited", 30),
    ("openai", Reply(status=429, error={"message": "pay", "code": "insufficient_quota"}), "quota_exceeded", None),
    ("openai", Reply(status=503, headers={"Retry-After": "3"}), "overloaded", 3),
    ("openai", Reply(status=503), "overloaded", 15),
    ("openai", Reply(status=500), "server_error", None),
    ("openai", Reply(status=401), "authentication", None),
    ("openai", Reply(status=404, error={"message": "no", "code": "model_not_found"}), "model_not_found", None),
    (
        "openai",
        Reply(
            status=400, error={"message": "Your input exceeds the context window", "code": "context_length_exceeded"}
        ),
        "context_length",
        None,
    ),
    ("openai", Reply(status=400, error={"message": "bad", "code": "invalid_value"}), "rejected", None),
    ("openai", Reply(broken_by={"code": "server_error", "message": "sorry"}), "server_error", None),
    ("openai", Reply(broken_by={"code": "rate_limit_exceeded", "message": "slow down"}), "rate_limited", 30),
    (
        "anthropic",
        Reply(status=429, headers={"retry-after": "7"}, error=anthropic("rate_limit_error")),
        "rate_limited",
        7,
    ),
    ("anthropic", Reply(status=529, error=anthropic("overloaded_error", "Overloaded")), "overloaded", 15),
    (
        "anthropic",
        Reply(status=529, headers={"retry-after": "4"}, error=anthropic("overloaded_error", "Overloaded")),
        "overloaded",
        4,
    ),
    ("anthropic", Reply(broken_by=anthropic("overloaded_error", "Overloaded")), "overloaded", 15),
    ("anthropic", Reply(broken_by=anthropic("api_error", "Internal server error")), "server_error", None),
    ("anthropic", Reply(status=500, error=anthropic("api_error")), "server_error", None),
    (
        "anthropic",
        Reply(status=401, error=anthropic("authentication_error", "invalid x-api-key")),
        "authentication",
        None,
    ),
    ("anthropic", Reply(status=404, error=anthropic("not_found_error", "model: m")), "model_not_found", None),
    (
        "anthropic",
        Reply(
            status=400, error=anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum")
        ),
        "context_length",
        None,
    ),
    (
        "anthropic",
        Reply(
            status=400,
            error=anthropic("invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
        ),
        "quota_exceeded",
        None,
    ),
    ("anthropic", Reply(status=400, error=anthropic("invalid_request_error", "tools.0: bad")), "rejected", None),
    ("google", Reply(status=429, error=google("RESOURCE_EXHAUSTED", retryDelay="7s")), "rate_limited", 7),
    ("google", Reply(status=429, error=google("RESOURCE_EXHAUSTED")), "rate_limited", 30),
    ("google", Reply(status=503, error=google("UNAVAILABLE", "The model is overloaded.")), "overloaded", 15),
    ("google", Reply(status=500, error=google("INTERNAL")), "server_error", None),
    ("google", Reply(status=403, error=google("PERMISSION_DENIED")), "authentication", None),
    (
        "google",
        Reply(status=400, error=google("INVALID_ARGUMENT", "API key not valid.", reason="API_KEY_INVALID")),
        "authentication",
        None,
    ),
    ("google", Reply(status=404, error=google("NOT_FOUND", "models/x is not found")), "model_not_found", None),
    (
        "google",
        Reply(
            status=400,
            error=google(
                "INVALID_ARGUMENT",
                "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            ),
        ),
        "context_length",
        None,
    ),
    ("google", Reply(status=400, error=google("INVALID_ARGUMENT", "tools[0]: bad")), "rejected", None),
]
RETRYABLE = {"rate_limited", "overloaded", "server_error"}


@pytest.mark.parametrize(("provider", "reply", "reason", "pause_s"), FAILURES)
async def test_every_failure_has_its_name_and_says_what_to_do(
    provider: str, reply: Reply, reason: str, pause_s: float | None
) -> None:
    failed, server = await failure(provider, reply)
    assert (failed.reason, failed.retryable) == (reason, reason in RETRYABLE), str(failed)
    assert failed.retry_after == (None if pause_s is None else timedelta(seconds=pause_s))
    assert len(server.requests) == 1, "whether to try again is the queue's decision"
    assert "k-secret" not in str(failed)


async def test_retry_after_may_be_a_date(provider: str) -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=120), usegmt=True)
    failed, _ = await failure(provider, Reply(status=429, headers={"Retry-After": at}))
    assert failed.retry_after is not None
    assert timedelta(seconds=60) < failed.retry_after <= timedelta(seconds=120)


@pytest.mark.parametrize(("header", "pause_s"), [("86400", 900), ("0", 0.1), ("soon", 30), ("-5", 30)])
async def test_retry_after_is_bounded_and_nonsense_is_no_pause_of_its_own(
    provider: str, header: str, pause_s: float
) -> None:
    failed, _ = await failure(provider, Reply(status=429, headers={"Retry-After": header}))
    assert failed.retry_after == timedelta(seconds=pause_s)


@pytest.mark.parametrize("reply", [Reply(cut_after=2), Reply(no_finish=True), Reply(garbage=b"{not json")])
async def test_an_answer_that_was_cut_off_is_never_taken_for_a_whole_one(provider: str, reply: Reply) -> None:
    failed, _ = await failure(provider, reply)
    assert (failed.reason in {"unreachable", "malformed_answer"}, failed.retryable) == (True, True), str(failed)


async def test_an_answer_that_falls_silent_is_given_up(provider: str) -> None:
    # Behind the first piece of text: until then a model may think for a long time.
    after = {"openai": 3, "anthropic": 4, "google": 1}[provider]
    failed, server = await failure(provider, Reply(stall_after=after), idle_timeout=timedelta(milliseconds=200))
    assert (failed.reason, failed.retryable) == ("timed_out", True)
    assert server.stalled.is_set()


async def test_cancelling_ends_the_providers_call_at_once(provider: str) -> None:
    async with opened(provider, Reply(stall_after=2)) as (model, server):
        task = asyncio.create_task(model.complete(QUESTION))
        await server.stalled.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            await server.hung_up.wait()


async def test_a_schema_is_asked_for(provider: str) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    request = QUESTION.model_copy(update={"output_schema": schema})
    async with opened(provider, Reply(pieces=('{"n": 1}',))) as (model, server):
        assert (await model.complete(request)).text == '{"n": 1}'
    assert '"integer"' in json.dumps(server.requests[0]).lower()
