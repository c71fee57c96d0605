"""How many requests a user may make: counted in Redis, so that every process sees the same count.

One script does it all in one round trip: it forgets what has left the window, decides, records, and sets the key's
end. Nothing can stop between two of these, so no counter is ever left without an end. The clock is Redis's own, so
processes on machines whose clocks differ still share one window.

The window slides: at no instant lie more than ``limit`` allowed requests within the ``window`` before it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from corral.errors import ConfigurationError, TooManyRequests
from corral.wire.commands import RedisCommands

MINUTE: Final = timedelta(minutes=1)

_HIT: Final = """
local now = redis.call('TIME')
now = tonumber(now[1]) * 1000000 + tonumber(now[2])
local limit, window, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local oldest = redis.call('LINDEX', KEYS[1], -1)
while oldest and tonumber(oldest) <= now - window do
  redis.call('RPOP', KEYS[1])
  oldest = redis.call('LINDEX', KEYS[1], -1)
end
local used = redis.call('LLEN', KEYS[1])
if used + cost <= limit then
  local stamp = string.format('%.0f', now)
  for _ = 1, cost do redis.call('LPUSH', KEYS[1], stamp) end
  if cost > 0 then redis.call('PEXPIRE', KEYS[1], math.ceil(window / 1000)) end
  local first = tonumber(oldest or stamp)
  return {1, limit - used - cost, string.format('%.0f', first + window - now), '0'}
end
local remaining = math.max(0, limit - used)
local gate = redis.call('LINDEX', KEYS[1], -(used + cost - limit))
local wait = gate and (tonumber(gate) + window - now) or window
local reset = oldest and (tonumber(oldest) + window - now) or window
return {0, remaining, string.format('%.0f', reset), string.format('%.0f', wait)}
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimit:
    """How many requests in how long a time."""

    #: Requests allowed within ``window``; at least 1.
    limit: int
    #: Length of the sliding window; at least 1 ms.
    window: timedelta = MINUTE

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ConfigurationError(f"a rate limit allows at least 1 request, got {self.limit!r}")
        if self.window < timedelta(milliseconds=1):
            raise ConfigurationError(f"a rate limit's window is at least 1 ms, got {self.window!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class RateLimitDecision:
    """What the limiter said to one request."""

    #: Whether the request may go on; it is counted only then.
    allowed: bool
    #: What was applied.
    rule: RateLimit
    #: Requests left in the window, after this one.
    remaining: int
    #: When the oldest counted request leaves the window and ``remaining`` grows again, from now.
    reset_after: timedelta
    #: How long a refused caller must wait before the same request is allowed; zero for an allowed one.
    retry_after: timedelta

    def headers(self, policy: str = "default") -> Mapping[str, str]:
        """The answer's header fields.

        ``RateLimit`` and ``RateLimit-Policy`` are those of draft-ietf-httpapi-ratelimit-headers; ``Retry-After`` is
        RFC 9110's and present on refusal only. Seconds are rounded up: a client that obeys is never too early.
        """
        window_s = math.ceil(self.rule.window.total_seconds())
        fields = {
            "RateLimit-Policy": f'"{policy}";q={self.rule.limit};w={window_s}',
            "RateLimit": f'"{policy}";r={self.remaining};t={math.ceil(self.reset_after.total_seconds())}',
        }
        if not self.allowed:
            fields["Retry-After"] = str(max(1, math.ceil(self.retry_after.total_seconds())))
        return fields


@lru_cache(maxsize=4096)
def _quoted(text: str) -> str:
    return quote(text, safe="")


class RateLimiter:
    """Counts requests per user and endpoint, exactly, however many processes ask at once.

    Args:
        redis: A ready async client.
        prefix: Of the keys: ``<prefix>:ratelimit:<user>:<endpoint>``, a list of at most ``limit`` instants.
    """

    def __init__(self, redis: RedisCommands, *, prefix: str = "corral") -> None:
        self._redis = redis
        self._prefix = prefix

    async def hit(self, user_id: str, endpoint: str, rule: RateLimit, *, cost: int = 1) -> RateLimitDecision:
        """Count one request, if it is allowed.

        Args:
            user_id: Whose request it is; any string.
            endpoint: What is limited, for example ``"add_job"``; any string.
            rule: The limit; callers that share a user and endpoint should share it too.
            cost: How many requests this one counts as; 0 only looks.

        Raises:
            StoreUnavailable: Redis can't be reached (as the given client reports it).

        Wire:
            KEYS the list; ARGV limit, window in µs, cost; replies allowed, remaining, µs to reset, µs to retry.
        """
        if cost < 0:
            raise ConfigurationError(f"a request's cost is 0 or more, got {cost!r}")
        window_us = rule.window // timedelta(microseconds=1)
        key = f"{self._prefix}:ratelimit:{_quoted(user_id)}:{_quoted(endpoint)}"
        # The whole script each time: it is short, and no server can have forgotten it.
        allowed, remaining, reset_us, retry_us = await self._redis.execute_command(
            "EVAL", _HIT, 1, key, rule.limit, window_us, cost
        )
        return RateLimitDecision(
            allowed=bool(int(allowed)),
            rule=rule,
            remaining=int(remaining),
            reset_after=timedelta(microseconds=int(reset_us)),
            retry_after=timedelta(microseconds=int(retry_us)),
        )

    async def check(self, user_id: str, endpoint: str, rule: RateLimit, *, cost: int = 1) -> RateLimitDecision:
        """Count one request or raise; for callers that have nothing to do with HTTP.

        Raises:
            TooManyRequests: The limit is used up.
            StoreUnavailable: Redis can't be reached.
        """
        decision = await self.hit(user_id, endpoint, rule, cost=cost)
        if not decision.allowed:
            raise TooManyRequests(
                f"expected at most {rule.limit} requests in {rule.window} by user {user_id!r} on {endpoint!r}; "
                f"try again in {math.ceil(decision.retry_after.total_seconds())} s",
                retry_after=decision.retry_after,
            )
        return decision
