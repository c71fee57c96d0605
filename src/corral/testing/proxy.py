"""A network that misbehaves on demand."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from datetime import timedelta
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class TcpProxy:
    """Stands between a client and its server on the loopback.

    Every method works on the connections that exist, and on those that come::

        async with TcpProxy(server.port) as proxy:
            corral = Corral(redis_url=proxy.url_for(server.url))
            await proxy.cut()
            proxy.mend()

    Args:
        target_port: The server's port on the loopback.
        tls: Speak TLS to clients, with this certificate; the server is reached without.
    """

    def __init__(self, target_port: int, *, tls: ssl.SSLContext | None = None) -> None:
        self._target_port = target_port
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._cut = False
        self._tasks: set[asyncio.Task[None]] = set()
        #: Where clients connect.
        self.port = 0
        #: Added to the way of each piece of data, in each direction.
        self.delay = timedelta()
        #: What the server answers vanishes, as when the way back is cut.
        self.drop_replies = False
        #: Connections accepted so far.
        self.accepted = 0
        # Set: data flows. Clear: what arrives is kept back, and nobody is told.
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def start(self) -> None:
        """Begin to listen, on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End all connections and stop listening."""
        await self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def url_for(self, url: str) -> str:
        """The server's address with the proxy's port in it."""
        parts = urlsplit(url)
        credentials, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{credentials}{at}127.0.0.1:{self.port}"))

    async def cut(self) -> None:
        """Reset every connection (RST), and reset new ones until :meth:`mend`."""
        self._cut = True
        self.reset_connections()
        await asyncio.sleep(0)

    def reset_connections(self) -> None:
        """Reset every connection (RST) once; new ones are fine."""
        for link in list(self._links):
            link.reset()

    def half_close(self) -> None:
        """End the server's side of every connection with a FIN, as a proxy or NAT does: no more replies come."""
        for link in list(self._links):
            link.half_close()

    def stall(self) -> None:
        """Keep back all data, both ways, without closing anything, until :meth:`mend`."""
        self._flowing.clear()

    def mend(self) -> None:
        """Undo :meth:`cut`, :meth:`stall` and ``drop_replies``; what was kept back goes on its way."""
        self._cut = False
        self.drop_replies = False
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        if self._cut:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, up_writer)
        self._links.add(link)
        ways = [
            asyncio.create_task(self._carry(reader, up_writer, link)),
            asyncio.create_task(self._carry(up_reader, writer, link)),
        ]
        self._tasks.update(ways)
        try:
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._tasks.difference_update(ways)
            self._links.discard(link)
            link.reset()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link) -> None:
        try:
            while data := await reader.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay.total_seconds())
                await self._flowing.wait()
                if writer is link.client and (link.half_closed or self.drop_replies):
                    continue
                writer.write(data)
                await writer.drain()
        except OSError:
            link.reset()
            return
        if not (writer is link.client and link.half_closed) and writer.can_write_eof():
            try:
                writer.write_eof()
            except OSError:
                link.reset()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class _Link:
    """One client's connection and the one to the server that goes with it."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        self.half_closed = False

    def reset(self) -> None:
        _reset(self.client)
        _reset(self.server)

    def half_close(self) -> None:
        self.half_closed = True
        try:
            self.client.write_eof()
        except OSError:
            self.reset()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with an RST, and at once: lingering for zero seconds does that."""
    raw = writer.get_extra_info("socket")
    if raw is not None and not writer.transport.is_closing():
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
