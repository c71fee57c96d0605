"""A pipe on a path that breaks or falls silent: every caller is told, and no outage is told twice."""

from __future__ import annotations

import asyncio

import pytest

from corral.errors import StoreUnavailable
from corral.testing import EmbeddedServer, TcpProxy
from corral.wire.address import parse_redis_url
from corral.wire.connector import connector
from corral.wire.pipe import Outage, Pipe, pack


def pipe_to(url: str, outage: Outage | None = None, answer_timeout: float | None = 8.0) -> Pipe:
    return Pipe(connector(parse_redis_url(url), "bull"), outage=outage, answer_timeout=answer_timeout)


async def test_a_silent_connection_is_given_up(corral_server: EmbeddedServer) -> None:
    async with TcpProxy(corral_server.port) as proxy:
        pipe = pipe_to(proxy.url_for(corral_server.url), answer_timeout=0.1)
        await pipe.open()
        proxy.stall()
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(10):
                await pipe.execute("PING")
        proxy.mend()
        await pipe.wait_connected()
        assert await pipe.execute("PING") == "PONG"
        await pipe.close()


async def test_nothing_is_sent_on_a_connection_that_is_gone(corral_server: EmbeddedServer) -> None:
    pipe = pipe_to(corral_server.url)
    await pipe.open()
    protocol = pipe._protocol
    assert protocol is not None
    protocol.connection_lost(None)  # before the pipe's own task has had its turn
    assert not pipe.connected
    with pytest.raises(StoreUnavailable):
        pipe.send(pack("PING"))
    assert protocol.transport is not None
    protocol.transport.abort()
    await pipe.close()


async def test_an_outage_lasts_from_the_first_cut_to_the_last_return(
    corral_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage()
    async with TcpProxy(corral_server.port) as first, TcpProxy(corral_server.port) as second:
        pipes = [pipe_to(proxy.url_for(corral_server.url), outage) for proxy in (first, second)]
        for pipe in pipes:
            await pipe.open()
        back = asyncio.Event()
        pipes[0].on_reconnect.append(back.set)
        await first.cut()
        await second.cut()
        first.mend()
        await back.wait()
        assert [record.message.split(" (")[0] for record in caplog.records] == ["Redis is away"]
        back.clear()
        pipes[1].on_reconnect.append(back.set)
        second.mend()
        await back.wait()
        pipes[0].drop()  # on purpose: no outage
        await pipes[0].wait_connected()
        assert await _told(caplog) == ["Redis is away", "Redis is back"]
        for pipe in pipes:
            await pipe.close()


async def test_connections_that_break_one_after_the_other_are_one_outage(
    corral_server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    outage = Outage()
    async with TcpProxy(corral_server.port) as first, TcpProxy(corral_server.port) as second:
        pipes = [pipe_to(proxy.url_for(corral_server.url), outage) for proxy in (first, second)]
        for pipe in pipes:
            await pipe.open()
        pipes[0].on_reconnect.append(second.reset_connections)  # the second breaks when the first is back
        back = asyncio.Event()
        pipes[1].on_reconnect.append(back.set)
        first.reset_connections()
        await back.wait()
        assert await _told(caplog) == ["Redis is away", "Redis is back"]
        for pipe in pipes:
            await pipe.close()


async def _told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged once an end was told, and for as long again as it takes to tell another."""
    async with asyncio.timeout(10):
        while not any("Redis is back" in record.message for record in caplog.records):
            await asyncio.sleep(0.01)
    await asyncio.sleep(2 * Outage.settled_s)
    return [record.message[:13] for record in caplog.records]
