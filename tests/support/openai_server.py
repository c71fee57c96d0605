"""OpenAI's chat completions, as OpenAI-compatible servers speak them."""

from __future__ import annotations

from typing import Any

from tests.support.model_server import ModelServer, Reply, data

__all__ = ["OpenAiServer", "Reply"]


class OpenAiServer(ModelServer):
    """See the module."""

    root = "/v1"

    def events(self, reply: Reply) -> list[bytes]:
        events = [_chunk({"role": "assistant", "content": ""})]
        events += [_chunk({"content": piece}) for piece in reply.pieces]
        if reply.refusal:
            events.append(_chunk({"refusal": reply.refusal}))
        for index, (name, arguments) in enumerate(reply.tool_calls):
            half = len(arguments) // 2
            first = {"name": name, "arguments": arguments[:half]}
            events.append(
                _chunk({"tool_calls": [{"index": index, "id": f"c{index}", "type": "function", "function": first}]})
            )
            events.append(_chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments[half:]}}]}))
        if reply.garbage:
            events.append(b"data: " + reply.garbage + b"\n\n")
        if not reply.no_finish:
            events.append(_chunk({}, finish=reply.finish))
        usage = {
            "prompt_tokens": 11,
            "completion_tokens": 7,
            "total_tokens": 18,
            "prompt_tokens_details": {"cached_tokens": 5},
        }
        events.append(
            data(
                {
                    "id": "x",
                    "object": "chat.completion.chunk",
                    "created": 1,
                    "model": "m-1",
                    "choices": [],
                    "usage": usage,
                }
            )
        )
        events.append(b"data: [DONE]\n\n")
        return events


def _chunk(delta: dict[str, Any], *, finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return data({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": [choice]})
