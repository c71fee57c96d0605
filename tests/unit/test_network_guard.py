"""The guard that keeps tests on this machine."""

from __future__ import annotations

import asyncio
import socket

import pytest


@pytest.mark.parametrize(
    ("family", "address"),
    [
        (socket.AF_INET, ("192.0.2.1", 80)),  # RFC 5737: documentation, never routed
        (socket.AF_INET6, ("2001:db8::1", 80, 0, 0)),  # RFC 3849: likewise
    ],
)
def test_addresses_elsewhere_are_refused(family: int, address: tuple[str, int]) -> None:
    with socket.socket(family) as one, pytest.raises(RuntimeError, match="may not use the network"):
        one.connect(address)


def test_names_are_not_resolved() -> None:
    with pytest.raises(RuntimeError, match=r"example\.invalid"):
        socket.getaddrinfo("example.invalid", 80)


async def test_loopback_is_served() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(greet, "localhost", 0) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("localhost", port)
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
