"""Which servers are refused, from what they say about themselves."""

from __future__ import annotations

from typing import Any

import pytest

from corral.errors import StoreUnavailable, StoreUnsuitable
from corral.wire.address import StoreMode
from corral.wire.server import _judge

GOOD: dict[str, Any] = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "role": "master",
    "maxmemory_policy": "noeviction",
    "maxmemory": 1000,
    "used_memory": 100,
    "aof_enabled": 1,
    "loading": 0,
    "cluster_enabled": 0,
}


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"redis_version": "6.0.16"}, StoreUnsuitable, "6.2 or newer"),
        ({"maxmemory_policy": "allkeys-lru"}, StoreUnsuitable, "CONFIG SET maxmemory-policy noeviction"),
        ({"maxmemory_policy": "volatile-ttl"}, StoreUnsuitable, "volatile-ttl"),
        ({"role": "slave", "master_host": "h", "master_port": 1}, StoreUnsuitable, "replica of h:1"),
        ({"redis_mode": "sentinel"}, StoreUnsuitable, "redis+sentinel://"),
        ({"cluster_enabled": 1}, StoreUnsuitable, "redis+cluster://"),
        ({"loading": 1}, StoreUnavailable, "loading"),
    ],
)
def test_a_server_that_would_lose_jobs_is_refused(change: dict[str, Any], kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says.replace("+", r"\+")):
        _judge(GOOD | change, "Redis", StoreMode.STANDALONE)


def test_what_a_managed_server_does_not_tell_is_not_held_against_it() -> None:
    found = _judge({"redis_version": "6.2.6"}, "Redis", StoreMode.STANDALONE)
    assert found.redis_version == (6, 2, 6)
    assert (found.eviction_policy, found.append_only, found.memory_used, found.warnings) == (None, None, None, ())
    assert _judge({}, "Redis", StoreMode.STANDALONE).version is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"aof_enabled": 0}, "appendonly yes"),
        ({"aof_last_write_status": "err"}, "disk"),
        ({"used_memory": 950}, "95%"),
    ],
)
def test_warnings(change: dict[str, Any], says: str | None) -> None:
    found = _judge(GOOD | change, "Redis", StoreMode.STANDALONE)
    assert [says in line for line in found.warnings] == ([True] if says else []) if says else found.warnings == ()


def test_products_are_told_apart() -> None:
    for extra, product, version in (
        ({"valkey_version": "9.1.2", "server_name": "valkey"}, "valkey", "9.1.2"),
        ({"dragonfly_version": "df-1.2"}, "dragonfly", "df-1.2"),
        ({}, "redis", "7.2.4"),
    ):
        found = _judge(GOOD | extra, "Redis", StoreMode.STANDALONE)
        assert (found.product, found.version) == (product, version)
