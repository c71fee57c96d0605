"""One pipe in the shape of redis-py's asyncio client, for what is asked often and one key at a time.

A command costs a third of the processor time that it takes through redis-py. Not for a Cluster: a pipe knows one node.
"""

from __future__ import annotations

import asyncio
from typing import Any

from corral.errors import StoreUnavailable
from corral.wire.pipe import CONNECT_TIMEOUT_S, Connector, Outage, Part, Pipe, Reply, ReplyError, pack, reply_failure


class PipeClient:
    """Commands on a connection of their own, which is opened when it is first used, and comes back by itself.

    Strings in replies are bytes, as they were stored.

    Args:
        connector: Where to connect.
        name: What ``CLIENT LIST`` shows for it.
        outage: Shared by the connections of one process, so that an outage is told once.
    """

    def __init__(self, connector: Connector, *, name: str, outage: Outage | None = None) -> None:
        self._pipe = Pipe(connector, name=name, outage=outage, decode=False)
        self._opening = asyncio.Lock()
        self._opened = False
        self._closed = False

    async def execute_command(self, *parts: Part, **_options: Any) -> Reply:
        """Send one command; redis-py's options mean nothing here.

        Raises:
            StoreUnavailable: No connection, not within three seconds either, or it broke.
            StoreError: Redis answered with an error.
        """
        if not self._pipe.connected:
            await self._ready()
        return _checked(await self._pipe.send(pack(*parts)))

    def pipeline(self, transaction: bool = False) -> Batch:  # noqa: FBT001, FBT002 - redis-py's own signature
        """Collect commands and send them in one write."""
        if transaction:
            raise ValueError("expected transaction=False: this client sends no MULTI")
        return Batch(self)

    async def close(self) -> None:
        """Close the connection; what was not answered fails."""
        self._closed = True
        async with self._opening:
            if self._opened:
                self._opened = False
                await self._pipe.close()

    async def _ready(self) -> None:
        """Connect, or wait a little for a connection that was lost: it is tried again all the time."""
        async with self._opening:
            if self._closed:
                raise StoreUnavailable("The connection to Redis was closed.")
            if not self._opened:
                await self._pipe.open()
                self._opened = True
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._pipe.wait_connected()
        except TimeoutError:
            raise StoreUnavailable("Redis can't be reached now.") from None

    async def _send(self, commands: list[bytes]) -> list[Reply]:
        if not commands:
            return []
        if not self._pipe.connected:
            await self._ready()
        replies = await asyncio.gather(*self._pipe.send_many(b"".join(commands), len(commands)))
        return [_checked(reply) for reply in replies]


class Batch:
    """Commands for one write."""

    def __init__(self, client: PipeClient) -> None:
        self._client = client
        self._commands: list[bytes] = []

    def execute_command(self, *parts: Part, **_options: Any) -> None:
        """Add one command."""
        self._commands.append(pack(*parts))

    async def execute(self) -> list[Reply]:
        """Send them and return their replies in order.

        Raises:
            StoreUnavailable: No connection, or it broke: some of them may have been carried out.
            StoreError: Redis answered one of them with an error; the others were carried out.
        """
        commands, self._commands = self._commands, []
        return await self._client._send(commands)  # noqa: SLF001 - its own file


def _checked(reply: Reply) -> Reply:
    if isinstance(reply, ReplyError):
        raise reply_failure(reply)
    return reply
