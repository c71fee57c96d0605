"""Whether a server will do: its version, eviction policy, mode, persistence and memory."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.sentinel import SentinelConnectionPool

from corral.errors import StoreUnavailable, StoreUnsuitable
from corral.wire.address import StoreAddress, StoreMode, mask_url
from corral.wire.faults import translate_errors

#: The oldest Redis whose commands BullMQ's scripts can do with.
OLDEST_VERSION = (6, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerInfo:
    """What a server says about itself; None where it doesn't."""

    #: ``redis``, ``valkey``, ``dragonfly``, …
    product: str
    version: str | None
    #: The Redis version that it is compatible with.
    redis_version: tuple[int, ...] | None
    mode: StoreMode
    eviction_policy: str | None
    used_memory_bytes: int | None
    #: 0 without a limit.
    max_memory_bytes: int | None
    append_only: bool | None
    connected_clients: int | None
    #: What should be mended though it works, one line each.
    warnings: tuple[str, ...] = ()

    @property
    def memory_used(self) -> float | None:
        """Share of its memory limit that is in use, 0 to 1; None without a limit."""
        if not self.max_memory_bytes or self.used_memory_bytes is None:
            return None
        return self.used_memory_bytes / self.max_memory_bytes


async def check_server(client: Redis, where: StoreAddress | str | None = None) -> ServerInfo:
    """Refuse a server that would lose jobs or can't run BullMQ's scripts. Costs one INFO for each primary.

    Managed servers forbid CONFIG and leave fields out of INFO: what isn't told is not held against them.

    Args:
        client: From :func:`open_client`.
        where: The address, for messages.

    Raises:
        StoreUnsuitable: Too old, evicts keys, is a replica or a sentinel, or is a cluster's node reached as a single
            server; says how to mend it.
        StoreUnavailable: It can't be reached, or is still loading.
        StoreAuthenticationFailed: Wrong password.
    """
    place = f"Redis at {mask_url(where) if isinstance(where, str) else where}" if where is not None else "this Redis"
    with translate_errors(where):
        if isinstance(cast("object", client), RedisCluster):
            answers = await _info_of_primaries(cast("RedisCluster", client))
            return _fullest([_judge(node, place, StoreMode.CLUSTER) for node in answers])
        found = await client.info()
    mode = StoreMode.SENTINEL if isinstance(client.connection_pool, SentinelConnectionPool) else StoreMode.STANDALONE
    return _judge(found, place, mode)


async def _info_of_primaries(cluster: RedisCluster) -> list[dict[str, Any]]:
    """Ask one by one: of several at once the library gives the replies by node, of a single one the bare reply."""
    await cluster.initialize()  # it learns its nodes with its first command
    return await asyncio.gather(*(cluster.info(target_nodes=node) for node in cluster.get_primaries()))


def _fullest(infos: list[ServerInfo]) -> ServerInfo:
    fullest = max(infos, key=lambda info: info.memory_used or 0.0)
    return replace(fullest, warnings=tuple(dict.fromkeys(line for info in infos for line in info.warnings)))


def _judge(info: Mapping[str, Any], place: str, mode: StoreMode) -> ServerInfo:
    version_text = str(info.get("redis_version") or "")
    version = tuple(int(part) for part in re.findall(r"\d+", version_text)[:3]) or None
    if "sentinel" in {info.get("redis_mode"), info.get("server_mode")}:  # Redis's name, and Valkey's
        raise StoreUnsuitable(f"{place} is a sentinel, not a server: use redis+sentinel:// in REDIS_URL")
    if version is not None and version < OLDEST_VERSION:
        raise StoreUnsuitable(f"{place} is version {version_text}; 6.2 or newer is needed: upgrade it")
    if mode is not StoreMode.CLUSTER and info.get("cluster_enabled") in {1, "1"}:
        raise StoreUnsuitable(f"{place} is a node of a Cluster: use redis+cluster:// in REDIS_URL")
    if info.get("role") == "slave":
        raise StoreUnsuitable(
            f"{place} is a replica of {info.get('master_host')}:{info.get('master_port')}, which takes no writes: "
            "name the primary in REDIS_URL"
        )
    if info.get("loading") in {1, "1"}:
        raise StoreUnavailable(f"{place} is still loading its data: try again in a moment")
    policy = info.get("maxmemory_policy")
    if policy is not None and policy != "noeviction":
        raise StoreUnsuitable(
            f"{place} evicts keys when its memory is full (maxmemory-policy {policy}), which loses jobs: "
            "run `CONFIG SET maxmemory-policy noeviction` and set it in its configuration too, or switch eviction off "
            "in the provider's console"
        )
    product = next(
        (name for name in ("dragonfly", "valkey", "keydb") if f"{name}_version" in info),
        str(info.get("server_name") or "redis"),
    )
    result = ServerInfo(
        product=product,
        version=str(info.get(f"{product}_version") or version_text) or None,
        redis_version=version,
        mode=mode,
        eviction_policy=policy,
        used_memory_bytes=_number(info.get("used_memory")),
        max_memory_bytes=_number(info.get("maxmemory")),
        append_only=None if "aof_enabled" not in info else info["aof_enabled"] in {1, "1"},
        connected_clients=_number(info.get("connected_clients")),
    )
    return replace(result, warnings=tuple(_warnings(info, result, place)))


def _warnings(info: Mapping[str, Any], result: ServerInfo, place: str) -> Iterator[str]:
    if result.append_only is False:
        yield (
            f"{place} keeps no append-only file: a crash loses the jobs added since its last snapshot; "
            "run `CONFIG SET appendonly yes` and set it in its configuration too"
        )
    for name in ("aof_last_write_status", "rdb_last_bgsave_status"):
        if info.get(name) == "err":
            yield f"{place} could not save to its disk ({name}: err): see its log; most often the disk is full"
    used = result.memory_used
    if used is not None and used >= 0.9:
        yield (f"{place} has used {used:.0%} of its memory limit: clean finished jobs (corral clean), or give it more")


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) or (isinstance(value, str) and value.isdigit()) else None
