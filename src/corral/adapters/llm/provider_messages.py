"""From the port's requests to the client library's messages, and from its responses to the port's answers."""

from __future__ import annotations

import json
from dataclasses import replace

from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelResponse,
    ModelResponsePart,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.messages import ModelRequest as NativeRequest
from pydantic_ai.models import ModelRequestParameters
from pydantic_ai.output import OutputObjectDefinition
from pydantic_ai.tools import ToolDefinition

from corral.adapters.llm.port import Finish, Message, ModelAnswer, ModelRequest, Role, ToolCall, Usage
from corral.adapters.llm.surrogates import mended


def text_of(event: object) -> str:
    """The text that an event of a stream brings; empty when it brings none."""
    if isinstance(event, PartStartEvent) and isinstance(event.part, TextPart):
        return event.part.content
    if isinstance(event, PartDeltaEvent) and isinstance(event.delta, TextPartDelta):
        return event.delta.content_delta
    return ""


def parameters_of(request: ModelRequest) -> ModelRequestParameters:
    """Tools and the schema of the answer."""
    parameters = ModelRequestParameters(
        function_tools=[
            ToolDefinition(
                name=tool.name, description=tool.description, parameters_json_schema=json.loads(tool.parameters)
            )
            for tool in request.tools
        ]
    )
    if request.output_schema is not None:
        parameters = replace(
            parameters,
            output_mode="native",
            output_object=OutputObjectDefinition(json_schema=request.output_schema, name="answer"),
        )
    return parameters


def native_messages(request: ModelRequest) -> list[ModelMessage]:
    """The conversation, in the provider's own form where an earlier answer has one."""
    native: list[ModelMessage] = []
    parts: list[UserPromptPart | ToolReturnPart] = []

    def flush() -> None:
        if parts:
            native.append(NativeRequest(parts=list(parts), instructions=request.system or None))
            parts.clear()

    for message in request.messages:
        if message.role is Role.ASSISTANT:
            flush()
            native.append(_native_response(message))
        elif message.role is Role.TOOL:
            parts.append(
                ToolReturnPart(
                    tool_name=message.tool_name or "", content=message.text, tool_call_id=message.tool_call_id or ""
                )
            )
        else:
            parts.append(UserPromptPart(message.text))
    flush()
    return native


def _native_response(message: Message) -> ModelResponse:
    if message.native is not None:
        restored = ModelMessagesTypeAdapter.validate_json(message.native)[0]
        if isinstance(restored, ModelResponse):
            return restored
    return ModelResponse(
        parts=[
            *([TextPart(message.text)] if message.text else []),
            *(ToolCallPart(call.name, call.arguments, tool_call_id=call.id) for call in message.tool_calls),
        ]
    )


def answer_of(response: ModelResponse, *, name: str) -> ModelAnswer:
    """A whole response as an answer; ``name`` is who answered when the provider doesn't say."""
    response = _mended(response)
    calls = tuple(
        ToolCall(id=part.tool_call_id, name=part.tool_name, arguments=part.args_as_json_str())
        for part in response.parts
        if isinstance(part, ToolCallPart)
    )
    text = "".join(part.content for part in response.parts if isinstance(part, TextPart))
    usage = response.usage
    details = response.provider_details or {}
    finish = Finish.TOOL_CALLS if calls else Finish.STOP
    if response.finish_reason == "length":
        finish = Finish.LENGTH
    elif response.finish_reason == "content_filter" or details.get("refusal"):
        finish = Finish.REFUSAL
        text = text or mended(str(details.get("refusal") or ""))
    return ModelAnswer(
        text=text,
        tool_calls=calls,
        finish=finish,
        usage=Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_input_tokens=usage.cache_read_tokens,
            usd=cost_of(response),
        ),
        model=response.model_name or name,
        native=ModelMessagesTypeAdapter.dump_json([response]).decode(),
    )


def _mended(response: ModelResponse) -> ModelResponse:
    """The response without halves of characters, which can be neither stored nor sent."""
    return replace(response, parts=[_mended_part(part) for part in response.parts])


def _mended_part(part: ModelResponsePart) -> ModelResponsePart:
    if isinstance(part, (TextPart, ThinkingPart)):
        content = mended(part.content)
        return part if content == part.content else replace(part, content=content)
    if isinstance(part, ToolCallPart) and part.args:
        told = part.args if isinstance(part.args, str) else json.dumps(part.args, ensure_ascii=False)
        if (whole := mended(told)) != told:
            return replace(part, args=whole if isinstance(part.args, str) else json.loads(whole))
    return part


def cost_of(response: ModelResponse) -> float | None:
    """What a response cost, in US dollars; None when nobody knows its model's price."""
    if response.usage.cost is not None:
        return float(response.usage.cost)
    try:
        return float(response.cost().total_price)
    except (LookupError, ValueError, AssertionError):
        return None
