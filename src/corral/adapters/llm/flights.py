"""One flight per key: of all who want an answer that nobody has, in whatever process, one asks and the others wait.

Key:
    llm-cache:flight:{m}:{h}     string   the token of who is asking for it now; expires when that process dies
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

from corral.adapters.llm.redis_client import RedisClient, end_task

_LIFE_MS = 10_000
_RENEWAL_S = 3.0
_POLL_FIRST_S = 0.05
_POLL_LONGEST_S = 0.5

# Both look whose flight it is and act on it in one step: a process that was frozen for longer than its flight's life
# must neither prolong nor end the one that took its place.
#
# KEYS the flight; ARGV token, life in ms; replies 1 kept, or taken again as nobody else had come; 0 lost.
_RENEW = """
local held = redis.call('GET', KEYS[1])
if held == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
if not held then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
return 0
"""
# KEYS the flight; ARGV token; replies 1 ended, 0 it was gone or another's.
_END = """
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
"""


class Flights:
    """Who is asking for what; safe to use from many tasks and many processes."""

    def __init__(self, redis: RedisClient, look: Callable[[str], Awaitable[bytes | None]]) -> None:
        """Agree with others through ``redis``.

        Args:
            redis: A ready asyncio client.
            look: What the cache has under a key by now.
        """
        self._redis = redis
        self._look = look
        #: In this process, so that waiting for a neighbour costs no polling.
        self._waiting: dict[str, asyncio.Event] = {}

    @contextlib.asynccontextmanager
    async def join(self, key: str) -> AsyncIterator[bytes | None]:
        """Hold the key's only flight (yields None), or wait for another's and yield what it brought."""
        flight_key = f"llm-cache:flight:{key.removeprefix('llm:')}"
        token = secrets.token_hex(8)
        pause_s = _POLL_FIRST_S
        while True:
            neighbour = self._waiting.get(key)
            if neighbour is None:
                landed = asyncio.Event()
                self._waiting[key] = landed  # claimed before anything is awaited
                try:
                    if await self._redis.execute_command("SET", flight_key, token, "NX", "PX", _LIFE_MS):
                        # The flight before this one may have landed between our look and our claim.
                        raw = await self._look(key)
                        if raw is not None:
                            await self._end(flight_key, token)
                            yield raw
                            return
                        async with self._kept_in_the_air(flight_key, token):
                            yield None
                        return
                finally:
                    del self._waiting[key]
                    landed.set()
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 1.5, _POLL_LONGEST_S)
            else:
                await neighbour.wait()
            raw = await self._look(key)
            if raw is not None:
                yield raw
                return

    @contextlib.asynccontextmanager
    async def _kept_in_the_air(self, flight_key: str, token: str) -> AsyncIterator[None]:
        renewing = asyncio.create_task(self._renew(flight_key, token))
        try:
            yield
        finally:
            await end_task(renewing)
            await asyncio.shield(self._end(flight_key, token))

    async def _renew(self, flight_key: str, token: str) -> None:
        while True:
            await asyncio.sleep(_RENEWAL_S)
            with contextlib.suppress(Exception):  # a Redis that is away must not end the call that is paid for
                if not await self._redis.execute_command("EVAL", _RENEW, 1, flight_key, token, _LIFE_MS):
                    return  # another's by now: that one's to keep

    async def _end(self, flight_key: str, token: str) -> None:
        with contextlib.suppress(Exception):  # it expires by itself
            await self._redis.execute_command("EVAL", _END, 1, flight_key, token)
