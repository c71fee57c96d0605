"""A server of their own: the cache's keys have no prefix, so these tests empty it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from corral.testing import EmbeddedServer


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
