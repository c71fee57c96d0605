"""Google's Gemini: ``streamGenerateContent`` as server-sent events."""

from __future__ import annotations

import json
from typing import Any

from tests.support.model_server import ModelServer, Reply, data

_REASONS = {"stop": "STOP", "tool_calls": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY"}


class GeminiServer(ModelServer):
    """See the module. ``finish`` is ``stop``, ``length``, ``content_filter`` or the protocol's own word.

    ``refusal`` blocks the prompt for that reason; ``garbage`` stands where an event should.
    """

    def events(self, reply: Reply) -> list[bytes]:
        if reply.refusal:
            return [data({"promptFeedback": {"blockReason": reply.refusal}, "usageMetadata": _usage(0)})]
        events = [_chunk([{"text": piece}]) for piece in reply.pieces]
        for name, arguments in reply.tool_calls:
            events.append(_chunk([{"functionCall": {"name": name, "args": json.loads(arguments)}}]))
        if reply.garbage:
            events.append(b"data: " + reply.garbage + b"\n\n")
        if reply.broken_by is not None:
            events.append(data({"error": reply.broken_by}))
        elif not reply.no_finish:
            events.append(_chunk([], finish=_REASONS.get(reply.finish, reply.finish)))
        return events

    def error(self, reply: Reply) -> dict[str, Any]:
        told = {"code": reply.status, "message": "no", "status": "UNKNOWN"}
        return {"error": {**told, **(reply.error or {})}}


def _usage(answered: int) -> dict[str, Any]:
    return {
        "promptTokenCount": 11, "cachedContentTokenCount": 5, "candidatesTokenCount": answered,
        "totalTokenCount": 11 + answered,
    }  # fmt: skip


def _chunk(parts: list[dict[str, Any]], *, finish: str = "") -> bytes:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    return data(
        {
            "candidates": [candidate],
            "usageMetadata": _usage(7),
            "modelVersion": "gemini-2.5-flash",
            "responseId": "r1",
        }
    )
