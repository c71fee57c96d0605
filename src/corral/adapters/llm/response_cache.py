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
    llm:{model}:{hash}           string   the answer: JSON, or 0x00 and zlib when long
    llm-cache:flight:{m}:{h}     string   who is asking for it now; expires when that process dies
    llm-cache:index              zset     ``size:key`` by the millisecond at which it expires
    llm-cache:bytes              string   sum of the sizes in the index
    llm-cache:stats:{model}      hash     hits, misses, stored, saved_tokens, saved_usd
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from pydantic import BaseModel

from corral.adapters.llm.port import Finish, LanguageModel, ModelAnswer, ModelRequest, ModelTraits, OnText
from corral.adapters.llm.redis_client import RedisClient, as_text

_VERSION = "1"
"""Part of every hash: raise it when the meaning of a stored answer changes."""
_INDEX = "llm-cache:index"
_BYTES = "llm-cache:bytes"
_COMPRESSED = b"\x00"
_FLIGHT_MS = 10_000
_FLIGHT_RENEWAL_S = 3.0
_POLL_FIRST_S = 0.05
_POLL_LONGEST_S = 0.5
_EVICT_AT_ONCE = 100


@dataclass(frozen=True, kw_only=True)
class CacheStats:
    """What the cache did for one model, summed over all processes."""

    hits: int = 0
    misses: int = 0
    stored: int = 0
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
class _Counters:
    hits: int = 0
    misses: int = 0
    stored: int = 0
    saved_tokens: int = 0
    saved_usd: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.hits or self.misses or self.stored)


@dataclass
class _LocalFlights:
    """Who in this process waits for what, so that waiting for a neighbour costs no polling."""

    waiting: dict[str, asyncio.Event] = field(default_factory=dict)


class ResponseCache:
    """The cache; safe to use from many tasks and many processes."""

    def __init__(
        self,
        redis: RedisClient,
        *,
        ttl: timedelta = timedelta(hours=1),
        max_bytes: int = 256 << 20,
        max_value_bytes: int = 4 << 20,
        compress_over_bytes: int = 64 << 10,
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
        self._flights = _LocalFlights()
        self._counters: dict[str, _Counters] = {}
        self._flushing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Write down the counters; the Redis client stays open."""
        if self._flushing is not None:
            self._flushing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._flushing
            self._flushing = None
        await self._flush()

    @staticmethod
    def key(model: str, request: Any) -> str:
        """The key of one request.

        Args:
            model: The model's name.
            request: A ``ModelRequest``, or anything that JSON can hold; must contain all that decides the answer.
        """
        digest = hashlib.sha256(f"{_VERSION}\n{model}\n".encode())
        if isinstance(request, ModelRequest):
            _add_request(digest, request)
        else:
            digest.update(json.dumps(request, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode())
        return f"llm:{model}:{digest.hexdigest()}"

    @contextlib.asynccontextmanager
    async def slot(self, model: str, request: Any) -> AsyncIterator[Slot]:
        """Look up a request; on a miss, hold the only flight for it until the block ends.

        A block that raises, or that doesn't call ``keep``, stores nothing, and whoever waited asks for itself.
        """
        key = self.key(model, request)
        raw = await self.raw(key)
        if raw is None:
            async with self._flight(key) as landed:
                if landed is None:
                    slot = Slot(key)
                    self._count(model).misses += 1
                    yield slot
                    if slot._keep:  # noqa: SLF001 - its own file
                        await self._store(model, slot)
                    return
                raw = landed
        found = json.loads(_unpacked(raw))
        self.count_hit(model, tokens=int(found["tokens"]), usd=float(found["usd"]))
        yield Slot(key, hit=True, value=found["value"])

    def raw(self, key: str) -> Awaitable[bytes | None]:
        """What is stored under a key, as it is; None on a miss. Counts nothing."""
        return self._redis.execute_command("GET", key, NEVER_DECODE=True)

    def count_hit(self, model: str, *, tokens: int, usd: float) -> None:
        """Count a hit of what ``raw`` gave."""
        counters = self._count(model)
        counters.hits += 1
        counters.saved_tokens += tokens
        counters.saved_usd += usd

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
            saved_tokens=int(values.get("saved_tokens", 0)),
            saved_usd=values.get("saved_usd", 0.0),
        )

    # --- one flight per key

    @contextlib.asynccontextmanager
    async def _flight(self, key: str) -> AsyncIterator[bytes | None]:
        """Hold the key's only flight (yields None), or wait for another's and yield what it brought."""
        flight_key = f"llm-cache:flight:{key.removeprefix('llm:')}"
        token = secrets.token_hex(8)
        pause_s = _POLL_FIRST_S
        while True:
            neighbour = self._flights.waiting.get(key)
            if neighbour is None:
                landed = asyncio.Event()
                self._flights.waiting[key] = landed  # claimed before anything is awaited
                try:
                    if await self._redis.execute_command("SET", flight_key, token, "NX", "PX", _FLIGHT_MS):
                        # The flight before this one may have landed between our look and our claim.
                        raw = await self.raw(key)
                        if raw is not None:
                            await self._end_flight(flight_key, token)
                            yield raw
                            return
                        async with self._kept_in_the_air(flight_key, token):
                            yield None
                        return
                finally:
                    del self._flights.waiting[key]
                    landed.set()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, _POLL_LONGEST_S)
            else:
                await neighbour.wait()
            raw = await self.raw(key)
            if raw is not None:
                yield raw
                return

    @contextlib.asynccontextmanager
    async def _kept_in_the_air(self, flight_key: str, token: str) -> AsyncIterator[None]:
        async def renew() -> None:
            while True:
                await asyncio.sleep(_FLIGHT_RENEWAL_S)
                with contextlib.suppress(
                    Exception
                ):  # an unreachable Redis must not end the call that is being paid for
                    await self._redis.execute_command("PEXPIRE", flight_key, _FLIGHT_MS)

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
            await asyncio.shield(self._end_flight(flight_key, token))

    async def _end_flight(self, flight_key: str, token: str) -> None:
        with contextlib.suppress(Exception):  # it expires by itself
            held = await self._redis.execute_command("GET", flight_key)
            if held is not None and as_text(held) == token:
                await self._redis.execute_command("DEL", flight_key)

    # --- storing

    async def _store(self, model: str, slot: Slot) -> None:
        told = json.dumps(
            {"value": slot.value, "tokens": slot._tokens, "usd": slot._usd},  # noqa: SLF001 - its own file
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()
        if len(told) > self._compress_over_bytes:
            told = _COMPRESSED + zlib.compress(told, 1)
        if len(told) > self._max_value_bytes:
            return
        ttl_ms = max(int(self._ttl.total_seconds() * 1000), 1)
        now_ms = int(time.time() * 1000)
        pipe = self._redis.pipeline(transaction=False)
        pipe.execute_command("SET", slot.key, told, "PX", ttl_ms)
        pipe.execute_command("ZADD", _INDEX, now_ms + ttl_ms, f"{len(told)}:{slot.key}")
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
            size, _, key = as_text(popped[0]).partition(":")
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
        with contextlib.suppress(Exception):  # counters are not worth an error; they stay for the next time
            await self._flush()

    async def _flush(self) -> None:
        taken = {model: counters for model, counters in self._counters.items() if counters}
        if not taken:
            return
        for model in taken:
            del self._counters[model]
        pipe = self._redis.pipeline(transaction=False)
        for model, counters in taken.items():
            key = f"llm-cache:stats:{model}"
            pipe.execute_command("HINCRBY", key, "hits", counters.hits)
            pipe.execute_command("HINCRBY", key, "misses", counters.misses)
            pipe.execute_command("HINCRBY", key, "stored", counters.stored)
            pipe.execute_command("HINCRBY", key, "saved_tokens", counters.saved_tokens)
            pipe.execute_command("HINCRBYFLOAT", key, "saved_usd", counters.saved_usd)
        await pipe.execute()


class CachedModel:
    """A model whose answers are kept in the response cache."""

    def __init__(self, model: LanguageModel, cache: ResponseCache) -> None:
        self._model = model
        self._cache = cache
        self._flights: dict[str, asyncio.Future[ModelAnswer]] = {}

    @property
    def name(self) -> str:
        """The model's."""
        return self._model.name

    @property
    def traits(self) -> ModelTraits:
        """The model's."""
        return self._model.traits

    async def complete(self, request: ModelRequest, *, on_text: OnText | None = None) -> ModelAnswer:
        """Answer from the cache, or ask the model and keep a whole answer; see the port.

        Equal requests of this process that run at the same time share one flight and its failure too: a hundred
        of them make one call even when it fails.
        """
        key = self._cache.key(self.name, request)
        while (flight := self._flights.get(key)) is not None:
            try:
                answer = await asyncio.shield(flight)
            except asyncio.CancelledError:
                if flight.cancelled() and not _being_cancelled():
                    continue  # the one who asked was cancelled, not we: ask again
                raise
            return await _told(answer.model_copy(update={"from_cache": True}), on_text)
        hit = await self._look_up(key, on_text)
        if hit is not None:
            return hit
        if key in self._flights:  # somebody took off while we looked
            return await self.complete(request, on_text=on_text)
        mine: asyncio.Future[ModelAnswer] = asyncio.get_running_loop().create_future()
        self._flights[key] = mine
        try:
            answer = await self._ask(request, on_text)
        except asyncio.CancelledError:
            mine.cancel()
            raise
        except BaseException as error:
            mine.set_exception(error)
            mine.exception()  # seen: nobody else may be waiting
            raise
        else:
            mine.set_result(answer)
            return answer
        finally:
            del self._flights[key]

    async def _look_up(self, key: str, on_text: OnText | None) -> ModelAnswer | None:
        """A hit by the shortest way: one round trip, and the answer read straight from its bytes."""
        raw = await self._cache.raw(key)
        if raw is None:
            return None
        stored = _StoredAnswer.model_validate_json(_unpacked(raw))
        self._cache.count_hit(self.name, tokens=stored.tokens, usd=stored.usd)
        return await _told(stored.value, on_text)

    async def close(self) -> None:
        """Close the model; the cache belongs to whoever made it."""
        await self._model.close()

    async def _ask(self, request: ModelRequest, on_text: OnText | None) -> ModelAnswer:
        async with self._cache.slot(self.name, request) as slot:
            if slot.hit:
                return await _told(ModelAnswer.model_validate(slot.value), on_text)
            answer = await self._model.complete(request, on_text=on_text)
            if answer.finish in {Finish.STOP, Finish.TOOL_CALLS} and (answer.text or answer.tool_calls):
                kept = answer.model_dump(mode="json") | {"from_cache": True}
                slot.keep(kept, tokens=answer.usage.tokens, usd=answer.usage.usd or 0.0)
            return answer


class _StoredAnswer(BaseModel):
    value: ModelAnswer
    tokens: int
    usd: float


async def _told(answer: ModelAnswer, on_text: OnText | None) -> ModelAnswer:
    if on_text is not None and answer.text:
        await on_text(answer.text)
    return answer


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _add_request(digest: hashlib._Hash, request: ModelRequest) -> None:
    """Hash every field; texts go in raw behind their lengths, as writing them as JSON would cost as much again."""
    texts: list[str] = [request.system]
    shape: list[Any] = [
        request.max_tokens,
        request.temperature,
        request.seed,
        request.stop,
        json.dumps(request.output_schema, sort_keys=True) if request.output_schema is not None else None,
        [tool.model_dump_json() for tool in request.tools],
    ]
    for message in request.messages:
        calls = [(call.id, call.name, call.arguments) for call in message.tool_calls]
        shape.append((message.role.value, message.tool_call_id, message.tool_name, calls, message.native is None))
        texts.append(message.text)
        texts.append(message.native or "")
    shape.append([len(text) for text in texts])
    digest.update(repr(shape).encode())
    for text in texts:
        digest.update(text.encode())


def _unpacked(raw: bytes) -> bytes:
    return zlib.decompress(memoryview(raw)[1:]) if raw[:1] == _COMPRESSED else raw


def _flat(reply: Any) -> list[Any]:
    # RESP2 answers member, score; RESP3 (and redis-py's own parsing) a list of pairs.
    if reply and isinstance(reply[0], (list, tuple)):
        return list(reply[0])
    return list(reply or [])
