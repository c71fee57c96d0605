"""A server of their own: the cache's keys have no prefix, so these tests empty it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from corral.testing import EmbeddedServer
from corral.wire.address import parse_redis_url
from corral.wire.connector import connector
from corral.wire.pipe_client import PipeClient


@pytest.fixture(scope="package")
def own_server() -> Iterator[EmbeddedServer]:
    """A server that only these tests use."""
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
async def redis(own_server: EmbeddedServer) -> AsyncIterator[Any]:
    """A client of it, when it is empty."""
    client = Redis.from_url(own_server.url, decode_responses=True)
    await client.flushdb()
    yield client
    await client.aclose()


@pytest.fixture(params=["decoding", "bytes", "pipe"])
async def store(request: Any, redis: Any, own_server: EmbeddedServer) -> Any:
    """Each kind of client that the cache is used with."""
    if request.param == "pipe":
        quick = PipeClient(connector(parse_redis_url(own_server.url), "bull"), name="cache")
        yield quick
        await quick.close()
    elif request.param == "bytes":
        client = Redis.from_url(own_server.url)
        yield client
        await client.aclose()
    else:
        yield redis
