"""Redis: reachable, fast, and set up so that no job is lost."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Any

from corral.interfaces.cli.doctor.finding import Finding, Verdict

if TYPE_CHECKING:
    from corral.wire.connection import RedisClient

_PINGS = 20
_SLOW_MS = 20.0
_CLOCK_SKEW_S = 1.0
_NEARLY_FULL = 0.8
_FULL = 0.95
_OLDEST = (6, 2)


async def check_store(redis: RedisClient, *, tls: bool, embedded: bool) -> list[Finding]:
    """All checks of the server itself.

    Raises:
        StoreError: It can't be reached.
    """
    info = await redis.info()
    return [
        await _latency(redis),
        _encryption(tls=tls, embedded=embedded, host_is_local=embedded),
        _version(info),
        _eviction(info),
        _memory(info),
        _persistence(info, embedded=embedded),
        await _clock(redis),
    ]


async def _latency(redis: RedisClient) -> Finding:
    times = []
    for _ in range(_PINGS):
        begun = perf_counter()
        await redis.ping()
        times.append((perf_counter() - begun) * 1000)
    middle, worst = median(times), max(times)
    detail = f"{middle:.1f} ms (median of {_PINGS}, worst {worst:.1f} ms)"
    if middle > _SLOW_MS:
        return Finding(
            "latency", Verdict.WARNING, detail, "run the workers in the region, better the network, that Redis is in"
        )
    return Finding("latency", Verdict.OK, detail)


def _encryption(*, tls: bool, embedded: bool, host_is_local: bool) -> Finding:
    if tls:
        return Finding("encryption", Verdict.OK, "TLS")
    if embedded or host_is_local:
        return Finding("encryption", Verdict.OK, "not needed: the server is on this machine")
    return Finding(
        "encryption",
        Verdict.WARNING,
        "REDIS_URL has no TLS: passwords and payloads cross the network in the clear",
        "write rediss:// when the server offers it (Upstash does)",
    )


def _version(info: Mapping[str, Any]) -> Finding:
    name = "Valkey" if info.get("valkey_version") else "Redis"
    text = str(info.get("valkey_version") or info.get("redis_version") or "")
    spoken = str(info.get("redis_version") or text)
    parts = tuple(int(part) for part in spoken.split(".")[:2] if part.isdecimal())
    if not parts:
        return Finding("version", Verdict.NOTE, f"the server doesn't say (mode {info.get('redis_mode', 'unknown')})")
    if parts < _OLDEST:
        return Finding(
            "version",
            Verdict.FAULT,
            f"{name} {text}; BullMQ's scripts need 6.2",
            "upgrade to Redis 6.2 or newer, or Valkey",
        )
    return Finding("version", Verdict.OK, f"{name} {text}, {info.get('redis_mode', 'standalone')}")


def _eviction(info: Mapping[str, Any]) -> Finding:
    policy = info.get("maxmemory_policy")
    if policy is None:
        return Finding(
            "eviction", Verdict.NOTE, "the server doesn't say", "make sure that eviction is off for this database"
        )
    if policy == "noeviction" or not int(info.get("maxmemory", 0) or 0):
        return Finding("eviction", Verdict.OK, f"{policy}: no job is dropped to make room")
    return Finding(
        "eviction",
        Verdict.FAULT,
        f"{policy}: Redis will drop jobs when its memory is full",
        "redis-cli config set maxmemory-policy noeviction (Upstash: switch eviction off in the database's settings)",
    )


def _memory(info: Mapping[str, Any]) -> Finding:
    used, limit = int(info.get("used_memory", 0) or 0), int(info.get("maxmemory", 0) or 0)
    limit = limit or int(info.get("total_system_memory", 0) or 0)
    if not limit:
        return Finding("memory", Verdict.OK, f"{used / 2**20:.0f} MiB used, no limit set")
    share = used / limit
    detail = f"{used / 2**20:.0f} of {limit / 2**20:.0f} MiB used ({share:.0%})"
    mend = (
        "remove old jobs (corral clean JOB_TYPE --grace 1h), shorten CORRAL_KEEP_COMPLETED and CORRAL_KEEP_FAILED, "
        "or give Redis more memory"
    )
    if share >= _FULL:
        return Finding("memory", Verdict.FAULT, f"{detail}: Redis refuses new jobs when it is full", mend)
    if share >= _NEARLY_FULL:
        return Finding("memory", Verdict.WARNING, detail, mend)
    return Finding("memory", Verdict.OK, detail)


def _persistence(info: Mapping[str, Any], *, embedded: bool) -> Finding:
    if int(info.get("aof_enabled", 0) or 0):
        if info.get("aof_last_write_status", "ok") != "ok":
            return Finding(
                "persistence",
                Verdict.FAULT,
                "the append-only file can't be written",
                "look at the server's disk space and log",
            )
        return Finding("persistence", Verdict.OK, "append-only file")
    if "aof_enabled" not in info:
        return Finding("persistence", Verdict.NOTE, "the server doesn't say; hosted ones usually persist")
    mend = "" if embedded else "redis-cli config set appendonly yes"
    return Finding(
        "persistence",
        Verdict.WARNING,
        "no append-only file: jobs of the last minutes are lost when the server stops hard",
        mend,
    )


async def _clock(redis: RedisClient) -> Finding:
    before = datetime.now(UTC).timestamp()
    seconds, microseconds = await redis.time()
    after = datetime.now(UTC).timestamp()
    skew = seconds + microseconds / 1e6 - (before + after) / 2
    if abs(skew) > _CLOCK_SKEW_S + (after - before):
        return Finding(
            "clock",
            Verdict.WARNING,
            f"this machine and Redis are {abs(skew):.1f} s apart: delayed jobs start early or late by that",
            "run a time service (chrony, systemd-timesyncd) on both",
        )
    return Finding("clock", Verdict.OK, f"within {abs(skew) * 1000:.0f} ms of Redis")
