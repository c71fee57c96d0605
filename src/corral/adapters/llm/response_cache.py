"""Answers that were paid for already, in Redis under ``llm:{model}:{hash}``.

The hash covers everything that decides an answer. One process asks the provider for one key at a time, whoever else
wants it waits; errors, truncations and refusals are never kept; the whole is bounded in bytes.

::

    async with ResponseCache(corral.redis) as cache:
        async with cache.slot("openai:NAME", {"prompt": prompt}) as slot:
            if not slot.hit:
                slot.keep(await call_llm(prompt), usd=0.02)
            answer = slot.value

Keys:
    llm:{model}:{hash}           string   JSON with value, tokens and usd, or 0x00 and zlib of it when long (a model's
                                          answer: see ``packed_answer``)
    llm-cache:flight:{m}:{h}     string   see ``flights``
    llm-cache:index              zset     ``size:expiry:key`` by the millisecond at which it expires
    llm-cache:bytes              string   sum of the sizes in the index
    llm-cache:stats:{model}      hash     hits, misses, stored, away, saved_tokens, saved_usd
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
import zlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Self

from corral.adapters.llm.flights import Flights
from corral.adapters.llm.port import ModelRequest
from corral.adapters.llm.redis_client import RedisClient, as_text
from corral.adapters.llm.request_hash import VERSION, request_hash
from corral.errors import StoreUnavailable
from corral.wire.faults import translate_error

logger = logging.getLogger("corral.llm")

_INDEX = "llm-cache:index"
_BYTES = "llm-cache:bytes"
_COMPRESSED = b"\x00"
_EVICT_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True)
class CacheStats:
    """What the cache did for one model, summed over all processes."""

    hits: int = 0
    misses: int = 0
    stored: int = 0
    away: int = 0
    """Questions that were asked without the cache, as Redis was away."""
    saved_tokens: int = 0
    saved_usd: float = 0.0


@dataclass
class Slot:
    """One key's place in the cache, inside ``async with cache.slot(...)``."""

    key: str
    hit: bool = False
    value: Any = None
    _keep: bool = False
    _tokens: int = 0
    _usd: float = 0.0

    def keep(self, value: Any, *, tokens: int = 0, usd: float = 0.0) -> None:
        """Store ``value`` (anything that JSON can hold) when the block ends without an error.

        Args:
            value: What later hits get.
            tokens: What it cost, so that later hits can say what they saved.
            usd: Likewise, in US dollars.
        """
        self.value, self._keep, self._tokens, self._usd = value, True, tokens, usd


@dataclass
class Landing:
    """One key's place in the cache as bytes; ``land`` stores what was paid for."""

    key: str
    raw: bytes | None = None
    """What the cache has; None: whoever holds this is the one to ask."""
    _packed: bytes | None = None

    def land(self, packed: bytes) -> None:
        """Store ``packed`` when the block ends without an error."""
        self._packed = packed


@dataclass
class _Counters:
    hits: int = 0
    misses: int = 0
    stored: int = 0
    away: int = 0
    saved_tokens: int = 0
    saved_usd: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.hits or self.misses or self.stored or self.away)

    def add(self, others: _Counters) -> None:
        self.hits += others.hits
        self.misses += others.misses
        self.stored += others.stored
        self.away += others.away
        self.saved_tokens += others.saved_tokens
        self.saved_usd += others.saved_usd


class ResponseCache:
    """The cache; safe to use from many tasks and many processes."""

    def __init__(
        self,
        redis: RedisClient,
        *,
        ttl: timedelta = timedelta(hours=1),
        max_bytes: int = 256 << 20,
        max_value_bytes: int = 4 << 20,
        compress_over_bytes: int = 1 << 20,
    ) -> None:
        """Use ``redis``; nothing is sent yet.

        Args:
            redis: A ready asyncio client.
            ttl: How long an answer is kept.
            max_bytes: Bound on everything that the cache keeps; the oldest go first.
            max_value_bytes: Longer answers are not kept.
            compress_over_bytes: Longer answers are compressed.
        """
        self._redis = redis
        self._ttl = ttl
        self._max_bytes = max_bytes
        self._max_value_bytes = max_value_bytes
        self._compress_over_bytes = compress_over_bytes
        self._flights = Flights(redis, self.raw)
        self._counters: dict[str, _Counters] = {}
        self._flushing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Write down the counters, if Redis is there; the client stays open, and the cache can be used again."""
        if self._flushing is not None:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
            self._flushing = None
        try:
            await self._flush()
        except Exception as error:  # noqa: BLE001 - whichever client's: counters must not keep anybody from closing
            logger.warning("The response cache's counters could not be written down: %s", error)

    @staticmethod
    def key(model: str, request: Any) -> str:
        """The key of one request.

        Args:
            model: The model's name.
            request: A ``ModelRequest``, or anything that JSON can hold; must contain all that decides the answer.
        """
        if isinstance(request, ModelRequest):
            return f"llm:{model}:{request_hash(model, request)}"
        told = json.dumps([VERSION, model, request], sort_keys=True, separators=(",", ":"))
        return f"llm:{model}:{hashlib.sha256(told.encode()).hexdigest()}"

    @contextlib.asynccontextmanager
    async def slot(self, model: str, request: Any) -> AsyncIterator[Slot]:
        """Look up a request; on a miss, hold the only flight for it until the block ends.

        A block that raises, or that doesn't call ``keep``, stores nothing, and whoever waited asks for itself. While
        Redis is away, each question is a miss of its own, and its answer is not kept.
        """
        async with self.landing(model, self.key(model, request)) as landing:
            if landing.raw is not None:
                found = json.loads(unpacked(landing.raw))
                self.count_hit(model, tokens=int(found["tokens"]), usd=float(found["usd"]))
                yield Slot(landing.key, hit=True, value=found["value"])
                return
            slot = Slot(landing.key)
            yield slot
            if slot._keep:  # noqa: SLF001 - its own file
                told = {"value": slot.value, "tokens": slot._tokens, "usd": slot._usd}  # noqa: SLF001 - its own file
                # ASCII, so that text which is no valid Unicode can be kept too.
                landing.land(json.dumps(told, separators=(",", ":")).encode())

    @contextlib.asynccontextmanager
    async def landing(self, model: str, key: str) -> AsyncIterator[Landing]:
        """As ``slot``, for those who have their own form of what is stored; counts misses, but no hits."""
        async with contextlib.AsyncExitStack() as flight:
            raw, away = None, False
            try:
                raw = await self.raw(key)
                if raw is None:
                    raw = await flight.enter_async_context(self._flights.join(key))
            except Exception as error:  # noqa: BLE001 - whichever client's; those that are about the command are raised
                self.go_on_without(model, error)
                away = True
            landing = Landing(key, raw)
            if raw is None and not away:
                self._count(model).misses += 1
            yield landing
            if landing._packed is not None and raw is None and not away:  # noqa: SLF001 - its own file
                await self._try_to_store(model, key, landing._packed)  # noqa: SLF001 - its own file

    def go_on_without(self, model: str, error: Exception) -> None:
        """Count a question that is asked without the cache, as Redis is away.

        Paying for an answer that somebody may have is better than failing the job, whose other steps would be paid
        again too if it didn't keep them.

        Raises:
            Exception: ``error`` itself, when it says something else.
        """
        if not isinstance(translate_error(error), StoreUnavailable):
            raise error
        self._count(model).away += 1
        logger.warning("A question to %s is asked without the response cache: %s", model, error)

    def raw(self, key: str) -> Awaitable[bytes | None]:
        """What is stored under a key, as it is; None on a miss. Counts nothing."""
        return self._redis.execute_command("GET", key, NEVER_DECODE=True)

    def count_hit(self, model: str, *, tokens: int, usd: float) -> None:
        """Count a hit of what ``raw`` gave."""
        counters = self._count(model)
        counters.hits += 1
        counters.saved_tokens += tokens
        counters.saved_usd += usd

    async def forget(self, key: str) -> None:
        """Remove what can't be read; the books are put right when its time is over."""
        with contextlib.suppress(Exception):  # it expires by itself
            await self._redis.execute_command("DEL", key)

    async def stats(self, model: str) -> CacheStats:
        """What the cache did for ``model`` so far, this process's last second included."""
        await self._flush()
        found = await self._redis.execute_command("HGETALL", f"llm-cache:stats:{model}")
        if not isinstance(found, dict):
            found = dict(zip(found[::2], found[1::2], strict=True))
        values = {as_text(name): float(as_text(value)) for name, value in found.items()}
        return CacheStats(
            hits=int(values.get("hits", 0)),
            misses=int(values.get("misses", 0)),
            stored=int(values.get("stored", 0)),
            away=int(values.get("away", 0)),
            saved_tokens=int(values.get("saved_tokens", 0)),
            saved_usd=values.get("saved_usd", 0.0),
        )

    # --- storing

    async def _try_to_store(self, model: str, key: str, told: bytes) -> None:
        try:
            await self._store(model, key, told)
        except Exception as error:  # noqa: BLE001 - whichever client's: an answer that was paid for is not lost for it
            logger.warning("An answer of %s could not be kept in the response cache: %s", model, error)

    async def _store(self, model: str, key: str, told: bytes) -> None:
        if len(told) > self._compress_over_bytes:
            told = _COMPRESSED + zlib.compress(told, 1)
        if len(told) > self._max_value_bytes:
            return
        ttl_ms = max(int(self._ttl.total_seconds() * 1000), 1)
        now_ms = int(time.time() * 1000)
        pipe = self._redis.pipeline(transaction=False)
        pipe.execute_command("SET", key, told, "PX", ttl_ms)
        # With its expiry: an answer as long as the expired one whose place it takes is another one.
        pipe.execute_command("ZADD", _INDEX, now_ms + ttl_ms, f"{len(told)}:{now_ms + ttl_ms}:{key}")
        pipe.execute_command("INCRBY", _BYTES, len(told))
        pipe.execute_command("ZRANGEBYSCORE", _INDEX, "-inf", now_ms, "LIMIT", 0, _EVICT_AT_ONCE)
        *_, held_bytes, expired = await pipe.execute()
        self._count(model).stored += 1
        await self._forget([as_text(member) for member in expired])
        await self._evict(int(held_bytes))

    async def _forget(self, members: list[str]) -> None:
        """Take expired answers off the books; whoever's ZREM counts is the one who subtracts."""
        if not members:
            return
        pipe = self._redis.pipeline(transaction=False)
        for member in members:
            pipe.execute_command("ZREM", _INDEX, member)
        removed = await pipe.execute()
        freed = sum(int(member.partition(":")[0]) for member, one in zip(members, removed, strict=True) if one)
        if freed:
            await self._redis.execute_command("DECRBY", _BYTES, freed)

    async def _evict(self, held_bytes: int) -> None:
        while held_bytes > self._max_bytes:
            popped = _flat(await self._redis.execute_command("ZPOPMIN", _INDEX))
            if not popped:
                await self._redis.execute_command("SET", _BYTES, 0)
                return
            size, expiry, key = as_text(popped[0]).split(":", 2)
            if int(expiry) > time.time() * 1000:  # else Redis has removed it, and this is perhaps a newer one
                await self._redis.execute_command("DEL", key)
            held_bytes = int(await self._redis.execute_command("DECRBY", _BYTES, int(size)))

    # --- counting: kept here and written once a second, so that a hit costs one round trip

    def _count(self, model: str) -> _Counters:
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_soon())
        counters = self._counters.get(model)
        if counters is None:
            counters = self._counters[model] = _Counters()
        return counters

    async def _flush_soon(self) -> None:
        await asyncio.sleep(1)
        with contextlib.suppress(Exception):  # counters are not worth an error; see there
            await self._flush()

    async def _flush(self) -> None:
        taken = {model: counters for model, counters in self._counters.items() if counters}
        if not taken:
            return
        pipe = self._redis.pipeline(transaction=False)
        for model, counters in taken.items():
            del self._counters[model]
            key = f"llm-cache:stats:{model}"
            pipe.execute_command("HINCRBY", key, "hits", counters.hits)
            pipe.execute_command("HINCRBY", key, "misses", counters.misses)
            pipe.execute_command("HINCRBY", key, "stored", counters.stored)
            pipe.execute_command("HINCRBY", key, "away", counters.away)
            pipe.execute_command("HINCRBY", key, "saved_tokens", counters.saved_tokens)
            pipe.execute_command("HINCRBYFLOAT", key, "saved_usd", counters.saved_usd)
        try:
            await pipe.execute()
        except BaseException:  # also a flush that is cancelled: they stay for the next time
            for model, counters in taken.items():
                self._counters.setdefault(model, _Counters()).add(counters)
            raise


def unpacked(raw: bytes) -> bytes:
    """What was stored, from what ``ResponseCache.raw`` gave."""
    return zlib.decompress(memoryview(raw)[1:]) if raw[:1] == _COMPRESSED else raw


def _flat(reply: Any) -> list[Any]:
    # RESP2 answers member, score; RESP3 (and redis-py's own parsing) a list of pairs.
    if reply and isinstance(reply[0], (list, tuple)):
        return list(reply[0])
    return list(reply or [])
