"""The cache that a ``Corral`` makes: one of its jobs and its users, on a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from corral import Corral
from corral.adapters.llm.response_cache import ResponseCache
from corral.errors import ConfigurationError
from corral.testing import EmbeddedCluster, EmbeddedServer


async def connections(redis: Any) -> list[str]:
    return [client["name"] for client in await redis.client_list()]


async def test_it_goes_over_a_connection_of_its_own_from_its_first_use(redis: Any, own_server: EmbeddedServer) -> None:
    async with Corral(own_server.url) as corral:
        cache = corral.response_cache
        assert "corral-cache" not in await connections(redis)
        async with cache.slot("m", "q") as slot:
            slot.keep("answer", usd=0.5)
        assert "corral-cache" in await connections(redis)
        # What others keep through redis-py is the same cache.
        async with ResponseCache(corral.redis) as other, other.slot("m", "q") as slot:
            assert slot.hit
            assert slot.value == "answer"
        assert corral.parts.response_cache is cache
    async with asyncio.timeout(10):
        while "corral-cache" in await connections(redis):
            await asyncio.sleep(0.01)


async def test_what_it_counted_is_written_down_when_the_corral_closes(redis: Any, own_server: EmbeddedServer) -> None:
    async with Corral(own_server.url) as corral, corral.response_cache.slot("m", "q") as slot:
        slot.keep("answer")
    assert await redis.hget("llm-cache:stats:m", "misses") == "1"


async def test_it_can_be_used_again_after_its_block_and_after_a_new_connection(
    redis: Any, own_server: EmbeddedServer
) -> None:
    corral = Corral(own_server.url)
    with pytest.raises(ConfigurationError, match="Not connected"):
        _ = corral.response_cache
    hits = []
    for _ in range(2):
        await corral.connect()
        for _ in range(2):
            async with corral.response_cache as cache, cache.slot("m", "q") as slot:
                hits.append(slot.hit)
                slot.keep("answer")
        await corral.close()
    assert hits == [False, True, True, True]
    assert await redis.hget("llm-cache:stats:m", "hits") == "3"


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedCluster]:
    with EmbeddedCluster() as cluster:
        yield cluster


async def test_on_a_cluster_each_key_is_asked_for_where_it_is(cluster: EmbeddedCluster) -> None:
    async with Corral(cluster.url, prefix="{bull}") as corral:
        cache = corral.response_cache
        for _ in range(2):
            for number in range(20):
                async with cache.slot("m", number) as slot:
                    slot.keep(number)
        stats = await cache.stats("m")
    assert (stats.hits, stats.misses, stats.stored) == (20, 20, 20)
