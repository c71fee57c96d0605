"""A pipe in the shape of redis-py's client, on a real server."""

from __future__ import annotations

import asyncio

import pytest

from corral.errors import StoreError, StoreUnavailable
from corral.testing import EmbeddedServer, TcpProxy
from corral.wire.address import parse_redis_url
from corral.wire.connector import connector
from corral.wire.pipe_client import PipeClient

NO_TEXT = bytes(range(256)) * 40


def client_of(url: str) -> PipeClient:
    return PipeClient(connector(parse_redis_url(url), "bull"), name="test-client")


async def names(client: PipeClient) -> bytes:
    listed = await client.execute_command("CLIENT", "LIST")
    assert isinstance(listed, bytes)
    return listed


async def test_what_was_stored_comes_back_as_it_was(corral_private_server: EmbeddedServer) -> None:
    client = client_of(corral_private_server.url)
    assert await client.execute_command("SET", "k", NO_TEXT, "PX", 60_000) == b"OK"
    assert await client.execute_command("GET", "k", NEVER_DECODE=True) == NO_TEXT
    assert await client.execute_command("GET", "none") is None
    assert await client.execute_command("INCRBY", "n", 2) == 2
    assert b"name=test-client" in await names(client)
    await client.close()


async def test_commands_in_one_write_are_answered_in_order(corral_private_server: EmbeddedServer) -> None:
    client = client_of(corral_private_server.url)
    batch = client.pipeline(transaction=False)
    assert await batch.execute() == []
    for number in range(50):
        batch.execute_command("SET", f"k{number}", number)
        batch.execute_command("GET", f"k{number}")
    assert await batch.execute() == [part for number in range(50) for part in (b"OK", str(number).encode())]
    assert await batch.execute() == []
    with pytest.raises(ValueError, match="MULTI"):
        client.pipeline(transaction=True)
    await client.close()


async def test_a_refusal_is_an_error_and_the_connection_stays(corral_private_server: EmbeddedServer) -> None:
    client = client_of(corral_private_server.url)
    await client.execute_command("SET", "k", "text")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await client.execute_command("LLEN", "k")
    batch = client.pipeline()
    batch.execute_command("LLEN", "k")
    batch.execute_command("SET", "after", "1")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await batch.execute()
    assert await client.execute_command("GET", "after") == b"1"
    await client.close()


async def test_many_at_once_open_one_connection(corral_private_server: EmbeddedServer) -> None:
    client = client_of(corral_private_server.url)
    assert await asyncio.gather(*(client.execute_command("PING") for _ in range(100))) == [b"PONG"] * 100
    assert (await names(client)).count(b"name=test-client") == 1
    await client.close()


async def test_a_connection_that_was_lost_is_waited_for(corral_private_server: EmbeddedServer) -> None:
    async with TcpProxy(corral_private_server.port) as proxy:
        client = client_of(proxy.url_for(corral_private_server.url))
        await client.execute_command("PING")
        await proxy.cut()
        # The pipe notices in the loop's next turns; asked for before, it is a connection that broke.
        while client._pipe.connected:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(client.execute_command("PING"))
        batch = client.pipeline()
        batch.execute_command("PING")
        also = asyncio.create_task(batch.execute())
        await asyncio.sleep(0)
        assert not waiting.done()
        proxy.mend()
        assert await waiting == b"PONG"
        assert await also == [b"PONG"]
        await client.close()


async def test_a_server_that_is_not_there_is_told(
    corral_private_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.wire.pipe_client.CONNECT_TIMEOUT_S", 0.2)
    async with TcpProxy(corral_private_server.port) as proxy:
        client = client_of(proxy.url_for(corral_private_server.url))
        await proxy.cut()
        with pytest.raises(StoreUnavailable):
            await client.execute_command("PING")
        proxy.mend()
        assert await client.execute_command("PING") == b"PONG"  # not opened before, and so tried again
        await proxy.cut()
        while client._pipe.connected:
            await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable):
            await client.execute_command("PING")
        await client.close()


async def test_closed_is_closed(corral_private_server: EmbeddedServer) -> None:
    unused = client_of(corral_private_server.url)
    await unused.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await unused.execute_command("PING")
    used = client_of(corral_private_server.url)
    await used.execute_command("PING")
    await used.close()
    await used.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        await used.execute_command("PING")
