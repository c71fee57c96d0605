"""OpenAI's responses, as its hosted models speak them."""

from __future__ import annotations

from itertools import count
from typing import Any

from tests.support.model_server import ModelServer, Reply, data

_USAGE = {
    "input_tokens": 11, "input_tokens_details": {"cached_tokens": 5}, "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 18,
}  # fmt: skip


class ResponsesServer(ModelServer):
    """See the module. ``finish`` is ``stop``, or the reason why the response is incomplete."""

    root = "/v1"

    def events(self, reply: Reply) -> list[bytes]:
        numbers = count()

        def event(kind: str, **rest: Any) -> bytes:
            return data({"type": kind, "sequence_number": next(numbers), **rest}, event=kind)

        events = [event("response.created", response=_response("in_progress"))]
        events += _message(event, reply)
        for index, (name, arguments) in enumerate(reply.tool_calls, start=1):
            events += _call(event, index, name, arguments)
        if reply.garbage:
            events.append(b"data: " + reply.garbage + b"\n\n")
        if reply.broken_by is not None:
            events.append(event("response.failed", response=_response("failed", error=reply.broken_by)))
        elif not reply.no_finish:
            whole = reply.finish in {"stop", "tool_calls"}
            status = "completed" if whole else "incomplete"
            details = None if whole else {"reason": reply.finish}
            events.append(
                event(f"response.{status}", response=_response(status, usage=_USAGE, incomplete_details=details))
            )
        return events


def _response(status: str, **rest: Any) -> dict[str, Any]:
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5-mini", "status": status, "output": [],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None, "incomplete_details": None,
        **rest,
    }  # fmt: skip


def _message(event: Any, reply: Reply) -> list[bytes]:
    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events = [event("response.output_item.added", output_index=0, item=item)]
    content: dict[str, Any]
    if reply.refusal:
        content = {"type": "refusal", "refusal": reply.refusal}
        events.append(event("response.refusal.delta", delta=reply.refusal, **place))
        events.append(event("response.refusal.done", refusal=reply.refusal, **place))
    else:
        content = {"type": "output_text", "text": "".join(reply.pieces), "annotations": []}
        events += [event("response.output_text.delta", delta=piece, logprobs=[], **place) for piece in reply.pieces]
        events.append(event("response.output_text.done", text=content["text"], logprobs=[], **place))
    done = {**item, "status": "completed", "content": [content]}
    return [*events, event("response.output_item.done", output_index=0, item=done)]


def _call(event: Any, index: int, name: str, arguments: str) -> list[bytes]:
    item = {"id": f"fc_{index}", "type": "function_call", "call_id": f"c{index}", "name": name, "arguments": ""}
    half, place = len(arguments) // 2, {"item_id": f"fc_{index}", "output_index": index}
    return [
        event("response.output_item.added", output_index=index, item=item),
        event("response.function_call_arguments.delta", delta=arguments[:half], **place),
        event("response.function_call_arguments.delta", delta=arguments[half:], **place),
        event("response.function_call_arguments.done", arguments=arguments, name=name, **place),
        event("response.output_item.done", output_index=index, item={**item, "arguments": arguments}),
    ]
