"""A protocol-true OpenAI-compatible chat server on the loopback that behaves as badly as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(kw_only=True)
class Reply:
    """One answer to one request."""

    pieces: Sequence[str] = ("Hel", "lo")
    tool_calls: Sequence[tuple[str, str]] = ()
    finish: str = "stop"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    error: dict[str, Any] | None = None
    refusal: str = ""
    #: After so many events the connection is cut without an end.
    cut_after: int | None = None
    #: After so many events nothing more comes.
    stall_after: int | None = None
    #: The stream ends as if it were whole, but nothing says why the model stopped.
    no_finish: bool = False
    #: Bytes that stand where an event should.
    garbage: bytes = b""


class OpenAiServer:
    """Gives its replies one after the other; the last one again and again."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        #: Set when a client went away in the middle of an answer.
        self.hung_up = asyncio.Event()
        #: Set when an answer has stalled.
        self.stalled = asyncio.Event()
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[OpenAiServer]:
        self._handlers: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        try:
            yield self
        finally:
            server.close()
            for task in list(self._handlers):
                task.cancel()
            await asyncio.gather(*self._handlers, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            self.hung_up.set()
        except asyncio.CancelledError:
            pass  # the server ends; in 3.11 the stream's own callback would report it as an error
        finally:
            self._handlers.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        headers = dict(line.decode().lower().split(": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append(json.loads(body))
        self.keys.append(headers.get("authorization", ""))
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if reply.status != 200:
            await self._refuse(writer, reply)
            return True
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, event in enumerate(self._events(reply)):
            if number == reply.cut_after:
                writer.transport.abort()
                return False
            if number == reply.stall_after:
                await writer.drain()
                self.stalled.set()
                await reader.read()  # until the client hangs up
                self.hung_up.set()
                return False
            writer.write(b"%x\r\n%s\r\n" % (len(event), event))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _refuse(self, writer: asyncio.StreamWriter, reply: Reply) -> None:
        body = json.dumps({"error": reply.error or {"message": "no", "type": "error"}}).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        writer.write(
            f"HTTP/1.1 {reply.status} Refused\r\nContent-Type: application/json\r\n{extra}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()

    def _events(self, reply: Reply) -> list[bytes]:
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
            _data(
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
    return _data({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m-1", "choices": [choice]})


def _data(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"
