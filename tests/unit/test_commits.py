from __future__ import annotations

from datetime import timedelta

import pytest
from tests.support.memory_redis import MemoryRedis

from corral.commits import CommitStore
from corral.errors import Unrecoverable


async def test_a_bundle_comes_back_byte_by_byte_and_is_its_branchs_newest() -> None:
    redis = MemoryRedis()
    store = CommitStore(redis, ttl=timedelta(hours=1))
    await store.put("shop", "a" * 40, bytes(range(256)), branch="corral/7")
    await store.put("shop", "b" * 40, b"2", branch="corral/7")
    assert await store.get("shop", "a" * 40) == bytes(range(256))
    assert await store.tip("shop", "corral/7") == "b" * 40
    assert await store.get("other", "a" * 40) is None
    assert await store.tip("shop", "corral/8") is None
    assert set(redis.expiries_ms.values()) == {3_600_000}


async def test_a_bundle_that_is_too_large_is_refused() -> None:
    redis = MemoryRedis()
    with pytest.raises(Unrecoverable) as raised:
        await CommitStore(redis, max_bundle_bytes=3).put("shop", "a" * 40, b"1234", branch="x")
    assert raised.value.reason == "commit_too_large"
    assert redis.values == {}
