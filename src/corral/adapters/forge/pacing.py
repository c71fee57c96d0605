"""Keeps what Corral creates on a forge under the forge's documented limits, across all workers.

GitHub asks for at least a second between such requests and allows 80 a minute and 500 an hour per account; going over
locks the account out for everybody.

Wire:
    ``{prefix}:forge-turn:{account}``              STRING  held for the interval after each request
    ``{prefix}:forge-writes:{account}:{bucket}``   STRING  requests in one bucket of six minutes
"""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import Final, Protocol

from corral.adapters.forge.port import Refusal, Refused
from corral.wire.commands import RedisCommands

_BUCKET_S: Final = 360
_BUCKETS_PER_HOUR: Final = 10
_LONGEST_WAIT_S: Final = 120.0


class Pacer(Protocol):
    """Says when the next creating request may go out."""

    async def turn(self) -> None:
        """Wait for this request's turn.

        Raises:
            ForgeFailed: ``rate_limited``: the hour's share is used up, or the queue for turns is too long.
        """
        ...


class Unpaced:
    """Never waits: for a forge of one's own without limits."""

    async def turn(self) -> None:
        """Go at once."""


class RedisPacer:
    """One request per interval and so many an hour, for all workers that share a Redis.

    Args:
        redis: A connected client.
        account: Whose limit it is: the forge's host and something that tells its accounts apart, but no token.
        refused: Makes the forge's errors.
        interval: Least time between two requests.
        per_hour: Most requests in any hour; counted in buckets of six minutes, of which an hour touches eleven.
        prefix: Start of the keys.
    """

    def __init__(
        self,
        redis: RedisCommands,
        *,
        account: str,
        refused: Refused,
        interval: timedelta = timedelta(seconds=1),
        per_hour: int = 450,
        prefix: str = "corral",
    ) -> None:
        self._redis = redis
        self._turn_key = f"{prefix}:forge-turn:{account}"
        self._count_key = f"{prefix}:forge-writes:{account}"
        self._interval_ms = max(1, round(interval.total_seconds() * 1000))
        self._per_bucket = max(1, per_hour // _BUCKETS_PER_HOUR)
        self._refused = refused

    async def turn(self) -> None:
        """Wait for this request's turn; see the port."""
        await self._count()
        end = time.monotonic() + _LONGEST_WAIT_S
        while not await self._redis.execute_command("SET", self._turn_key, "1", "NX", "PX", self._interval_ms):
            if time.monotonic() >= end:
                raise self._refused(
                    Refusal.RATE_LIMITED,
                    "wait for its turn",
                    "too many jobs create things on this forge at once",
                    retry_after=timedelta(seconds=30),
                )
            left_ms = int(await self._redis.execute_command("PTTL", self._turn_key))
            await asyncio.sleep(max(1, left_ms) / 1000)

    async def _count(self) -> None:
        now = time.time()
        bucket = int(now // _BUCKET_S)
        key = f"{self._count_key}:{bucket}"
        if int(await self._redis.execute_command("INCR", key)) > self._per_bucket:
            raise self._refused(
                Refusal.RATE_LIMITED,
                "wait for its turn",
                f"{self._per_bucket} requests that create something were made in six minutes; the forge allows no more",
                retry_after=timedelta(seconds=(bucket + 1) * _BUCKET_S - now + 1),
            )
        await self._redis.execute_command("PEXPIRE", key, 2 * _BUCKET_S * 1000)
