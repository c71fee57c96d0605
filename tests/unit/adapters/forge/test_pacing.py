from __future__ import annotations

from datetime import timedelta

import pytest
from tests.support.memory_redis import MemoryRedis

from corral.adapters.forge import pacing
from corral.adapters.forge.pacing import RedisPacer
from corral.adapters.forge.port import Refused
from corral.errors import ForgeFailed


class Expiring(MemoryRedis):
    """Keys end when the pacer sleeps, not by the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.slept_s: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        for key in [key for key in self.expiries_ms if ":forge-turn:" in key]:
            del self.values[key], self.expiries_ms[key]


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Expiring:
    redis = Expiring()
    monkeypatch.setattr("corral.adapters.forge.pacing.asyncio.sleep", redis.sleep)
    return redis


def pacer(redis: MemoryRedis, **options: object) -> RedisPacer:
    return RedisPacer(redis, account="github:x", refused=Refused("github"), **options)  # type: ignore[arg-type]


async def test_two_workers_share_the_interval(redis: Expiring) -> None:
    await pacer(redis, interval=timedelta(seconds=2)).turn()
    assert redis.slept_s == []
    await pacer(redis, interval=timedelta(seconds=2)).turn()
    assert redis.slept_s == [2.0]


async def test_the_hours_share_is_kept_by_asking_for_a_pause(redis: Expiring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.adapters.forge.pacing.time.time", lambda: 3600.0 * 10 + 100)
    one = pacer(redis, per_hour=20)
    await one.turn()
    await one.turn()
    with pytest.raises(ForgeFailed) as raised:
        await one.turn()
    assert (raised.value.reason, raised.value.retryable) == ("rate_limited", True)
    assert raised.value.retry_after == timedelta(seconds=261)


async def test_a_queue_that_is_too_long_asks_for_a_pause(redis: Expiring, monkeypatch: pytest.MonkeyPatch) -> None:
    one = pacer(redis)
    await one.turn()
    monkeypatch.setattr(pacing, "_LONGEST_WAIT_S", 0.0)
    with pytest.raises(ForgeFailed) as raised:
        await one.turn()
    assert raised.value.retry_after is not None
