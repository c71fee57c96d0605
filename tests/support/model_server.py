"""A model provider on the loopback that behaves as badly as it is told; the dialects are in files of their own."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

_KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")


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
    #: An error inside the stream, after the text.
    broken_by: dict[str, Any] | None = None


class ModelServer:
    """Gives its replies one after the other; the last one again and again."""

    #: The path that clients put before those of the protocol.
    root = ""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str] = []
        #: Set when a client went away in the middle of an answer.
        self.hung_up = asyncio.Event()
        #: Set when an answer has stalled.
        self.stalled = asyncio.Event()
        self.url = ""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        self._handlers: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}{self.root}"
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
        self.paths.append(head.split(b" ", 2)[1].decode())
        self.keys.append(next((headers[name] for name in _KEY_HEADERS if name in headers), ""))
        reply = self._replies.pop(0) if len(self._replies) > 1 else self._replies[0]
        if reply.status != 200:
            await self._refuse(writer, reply)
            return True
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, event in enumerate(self.events(reply)):
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
        body = json.dumps(self.error(reply)).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        writer.write(
            f"HTTP/1.1 {reply.status} Refused\r\nContent-Type: application/json\r\n{extra}"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await writer.drain()

    def events(self, reply: Reply) -> list[bytes]:
        """The stream, event by event."""
        raise NotImplementedError

    def error(self, reply: Reply) -> dict[str, Any]:
        """The body of a refused request."""
        return {"error": reply.error or {"message": "no", "type": "error"}}


def data(value: dict[str, Any], *, event: str = "") -> bytes:
    """One server-sent event."""
    return (f"event: {event}\n" if event else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"
