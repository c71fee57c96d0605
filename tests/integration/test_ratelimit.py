from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any

import pytest

from corral.errors import ConfigurationError, TooManyRequests
from corral.ratelimit import RateLimit, RateLimiter
from corral.testing import EmbeddedServer
from corral.wire.connection import RedisClient, open_client


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as running:
        yield running


@pytest.fixture
async def redis(server: EmbeddedServer) -> AsyncIterator[RedisClient]:
    client = open_client(server.url)
    await client.flushdb()
    yield client
    await client.aclose()


async def test_allows_exactly_the_limit_to_many_clients_at_once(server: EmbeddedServer, redis: RedisClient) -> None:
    rule = RateLimit(limit=100)
    clients = [open_client(server.url) for _ in range(4)]
    limiters = [RateLimiter(client) for client in clients]

    decisions = await asyncio.gather(*(limiter.hit("ann", "add_job", rule) for limiter in limiters for _ in range(60)))

    assert sum(decision.allowed for decision in decisions) == 100
    assert min(decision.remaining for decision in decisions) == 0
    for client in clients:
        await client.aclose()


async def test_users_and_endpoints_have_counts_of_their_own(redis: RedisClient) -> None:
    limiter, rule = RateLimiter(redis), RateLimit(limit=1)

    assert (await limiter.hit("ann", "a", rule)).allowed
    assert (await limiter.hit("ann", "b", rule)).allowed
    assert (await limiter.hit("bob", "a", rule)).allowed
    assert not (await limiter.hit("ann", "a", rule)).allowed
    # names that would run together if they were only joined
    assert (await limiter.hit("ann:a", "b", rule)).allowed
    assert (await limiter.hit("ann", "a:b", rule)).allowed


async def test_window_slides_and_retry_after_is_true(redis: RedisClient) -> None:
    """A fixed window would allow 2 more right after its border; a sliding one waits for the first to leave."""
    limiter, rule = RateLimiter(redis), RateLimit(limit=2, window=timedelta(milliseconds=300))
    first = await limiter.hit("ann", "a", rule)
    await asyncio.sleep(0.15)
    await limiter.hit("ann", "a", rule)

    refused = await limiter.hit("ann", "a", rule)
    assert first.allowed
    assert not refused.allowed
    assert timedelta(0) < refused.retry_after <= timedelta(milliseconds=160)
    await asyncio.sleep(refused.retry_after.total_seconds() + 0.005)
    assert (await limiter.hit("ann", "a", rule)).allowed
    assert not (await limiter.hit("ann", "a", rule)).allowed


async def test_a_counter_always_has_an_end(redis: RedisClient) -> None:
    limiter, rule = RateLimiter(redis), RateLimit(limit=3)
    for _ in range(5):
        await limiter.hit("ann", "a", rule)
        (key,) = [key async for key in redis.scan_iter("corral:ratelimit:*")]
        assert 0 < await redis.pttl(key) <= 60_000
        assert await redis.llen(key) <= 3


async def test_looking_costs_nothing(redis: RedisClient) -> None:
    limiter, rule = RateLimiter(redis), RateLimit(limit=2)

    assert (await limiter.hit("ann", "a", rule, cost=0)).remaining == 2
    assert (await limiter.hit("ann", "a", rule, cost=2)).remaining == 0
    assert [key async for key in redis.scan_iter("corral:ratelimit:*")]


async def test_a_request_dearer_than_the_limit_is_refused_without_counting(redis: RedisClient) -> None:
    limiter, rule = RateLimiter(redis), RateLimit(limit=2)

    assert not (await limiter.hit("ann", "a", rule, cost=3)).allowed
    assert (await limiter.hit("ann", "a", rule)).remaining == 1


async def test_check_raises_with_the_time_to_wait(redis: RedisClient) -> None:
    limiter, rule = RateLimiter(redis), RateLimit(limit=1)
    await limiter.check("ann", "a", rule)

    with pytest.raises(TooManyRequests, match="at most 1 requests") as caught:
        await limiter.check("ann", "a", rule)

    assert timedelta(seconds=50) < caught.value.retry_after <= timedelta(minutes=1)


async def test_script_comes_back_after_the_server_forgot_it(redis: RedisClient) -> None:
    limiter, rule = RateLimiter(redis), RateLimit(limit=2)
    await limiter.hit("ann", "a", rule)
    await redis.script_flush()

    assert (await limiter.hit("ann", "a", rule)).remaining == 0


async def test_headers_say_what_was_decided(redis: RedisClient) -> None:
    limiter, rule = RateLimiter(redis), RateLimit(limit=1)

    allowed = (await limiter.hit("ann", "a", rule)).headers()
    refused = (await limiter.hit("ann", "a", rule)).headers()

    assert allowed == {"RateLimit-Policy": '"default";q=1;w=60', "RateLimit": '"default";r=0;t=60'}
    assert refused == {**allowed, "Retry-After": "60"}


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"limit": 1, "window": timedelta(0)}])
def test_impossible_rules_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        RateLimit(**wrong)
