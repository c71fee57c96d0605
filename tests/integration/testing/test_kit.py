"""The test kit's server and network do what tests of others rely on."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from corral.errors import StoreUnavailable
from corral.testing import EmbeddedServer, TcpProxy

PING, PONG = b"PING\r\n", b"+PONG\r\n"


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_server_keeps_its_data_and_its_port_over_its_end(end: str) -> None:
    with EmbeddedServer() as server:
        assert server.command("SET", "a", "1") == "+OK\r\n"
        port, pid = server.port, server.pid
        getattr(server, end)()
        assert not server.running
        with pytest.raises(ConnectionRefusedError):
            server.command("PING")
        server.start()
        assert (server.port, server.command("GET", "a")) == (port, "$1\r\n1\r\n")
        assert server.pid != pid
        server.start()  # a second start changes nothing
        folder = server.folder
    assert not folder.exists()


def test_a_frozen_server_keeps_its_connections_and_says_nothing() -> None:
    with EmbeddedServer() as server:
        server.freeze()
        with pytest.raises(TimeoutError):
            server.command("PING", timeout=timedelta(milliseconds=50))
        server.thaw()
        assert server.command("PING") == PONG.decode()
        server.freeze()
        server.stop()
        assert not server.running


def test_a_wrong_option_is_said() -> None:
    server = EmbeddedServer(options={"no-such-option": "1"})
    with pytest.raises(StoreUnavailable, match="did not start"):
        server.start()
    server.close()


def test_nothing_is_left_when_it_is_forgotten() -> None:
    server = EmbeddedServer().start()
    folder, pid = server.folder, server.pid
    del server
    assert not folder.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(PING)
    return await reader.readexactly(len(PONG))


async def test_a_proxy_carries(corral_server: EmbeddedServer) -> None:
    async with TcpProxy(corral_server.port) as proxy, connected(proxy.port) as link:
        assert await ping(*link) == PONG
        proxy.delay = timedelta(milliseconds=40)
        began = time.monotonic()
        assert await ping(*link) == PONG
        assert time.monotonic() - began >= 0.08
        assert proxy.url_for("redis://:pw@127.0.0.1:1/2") == f"redis://:pw@127.0.0.1:{proxy.port}/2"


async def test_a_proxy_cuts_and_mends(corral_server: EmbeddedServer) -> None:
    async with TcpProxy(corral_server.port) as proxy, connected(proxy.port) as link:
        assert await ping(*link) == PONG
        await proxy.cut()
        with pytest.raises(ConnectionResetError):
            await link[0].readexactly(1)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            async with connected(proxy.port) as second:
                await ping(*second)
        proxy.mend()
        async with connected(proxy.port) as third:
            assert await ping(*third) == PONG
            proxy.reset_connections()
            with pytest.raises(ConnectionResetError):
                await third[0].readexactly(1)


async def test_a_proxy_half_closes(corral_server: EmbeddedServer) -> None:
    async with TcpProxy(corral_server.port) as proxy, connected(proxy.port) as link:
        assert await ping(*link) == PONG
        proxy.half_close()
        assert await link[0].read() == b""
        before = corral_server.command("DBSIZE")
        link[1].write(b"SET half 1\r\n")  # the way there is still open
        await link[1].drain()
        while corral_server.command("GET", "half") != "$1\r\n1\r\n":
            await asyncio.sleep(0.005)
        assert corral_server.command("DEL", "half") == ":1\r\n"
        assert corral_server.command("DBSIZE") == before


async def test_a_proxy_stalls_and_drops_replies(corral_server: EmbeddedServer) -> None:
    async with TcpProxy(corral_server.port) as proxy:
        async with connected(proxy.port) as link:
            proxy.stall()
            asking = asyncio.create_task(ping(*link))
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asking), 0.05)
            proxy.mend()
            assert await asking == PONG
        async with connected(proxy.port) as link:
            proxy.drop_replies = True
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(ping(*link), 0.05)
