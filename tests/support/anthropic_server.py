"""Anthropic's messages."""

from __future__ import annotations

from typing import Any

from tests.support.model_server import ModelServer, Reply, data

_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens"}


class AnthropicServer(ModelServer):
    """See the module. ``finish`` is ``stop``, ``tool_calls``, ``length``, or the protocol's own word."""

    def events(self, reply: Reply) -> list[bytes]:
        message: dict[str, Any] = {
            "id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-sonnet-5",
            "stop_reason": None, "stop_sequence": None,
            "usage": {
                "input_tokens": 6, "output_tokens": 1, "cache_read_input_tokens": 5, "cache_creation_input_tokens": 0,
            },
        }  # fmt: skip
        events = [_event("message_start", message=message), _event("ping")]
        if reply.pieces:
            events += _block(
                0, {"type": "text", "text": ""}, [{"type": "text_delta", "text": one} for one in reply.pieces]
            )
        for index, (name, arguments) in enumerate(reply.tool_calls, start=1):
            half = len(arguments) // 2
            parts = [
                {"type": "input_json_delta", "partial_json": part} for part in (arguments[:half], arguments[half:])
            ]
            events += _block(index, {"type": "tool_use", "id": f"c{index}", "name": name, "input": {}}, parts)
        if reply.garbage:
            events.append(b"event: content_block_delta\ndata: " + reply.garbage + b"\n\n")
        if reply.broken_by is not None:
            events.append(_event("error", error=reply.broken_by))
        elif not reply.no_finish:
            reason = "refusal" if reply.refusal else _REASONS.get(reply.finish, reply.finish)
            delta = {"stop_reason": reason, "stop_sequence": None}
            events += [_event("message_delta", delta=delta, usage={"output_tokens": 7}), _event("message_stop")]
        return events

    def error(self, reply: Reply) -> dict[str, Any]:
        return {"type": "error", "error": reply.error or {"type": "api_error", "message": "no"}, "request_id": "req_1"}


def _event(kind: str, **rest: Any) -> bytes:
    return data({"type": kind, **rest}, event=kind)


def _block(index: int, block: dict[str, Any], deltas: list[dict[str, Any]]) -> list[bytes]:
    return [
        _event("content_block_start", index=index, content_block=block),
        *(_event("content_block_delta", index=index, delta=delta) for delta in deltas),
        _event("content_block_stop", index=index),
    ]
