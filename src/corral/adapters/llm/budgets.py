"""What may be spent on models: per job, per user and day, and per day, counted in Redis and checked before each call.

Keys (hashes with ``tokens`` and ``usd``, expiring two days after their last use):
    {prefix}:llm-budget:job:{job}            one job's, all attempts together
    {prefix}:llm-budget:user:{day}:{user}    one user's on one day (UTC)
    {prefix}:llm-budget:day:{day}            everybody's on one day (UTC)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from corral.adapters.llm.port import Usage
from corral.adapters.llm.redis_client import RedisClient, as_text

_KEPT_S = 2 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """Bounds of one scope; None is no bound."""

    tokens: int | None = None
    usd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Exceeded:
    """A budget that is used up."""

    scope: str
    """``job``, ``user`` or ``day``."""
    unit: str
    """``tokens`` or ``usd``."""
    allowed: float
    used: float

    def __str__(self) -> str:
        return f"the {self.scope}'s budget of {self.allowed:g} {self.unit} is used up ({self.used:g})"


class Budgets:
    """The ledger; safe to use from many workers."""

    def __init__(
        self,
        redis: RedisClient,
        *,
        prefix: str = "corral",
        user: Allowance = Allowance(),
        day: Allowance = Allowance(),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Count in ``redis``.

        Args:
            redis: A ready asyncio client.
            prefix: Start of the keys.
            user: What each user's jobs may spend on one day.
            day: What all jobs may spend on one day.
            now: The clock.
        """
        self._redis = redis
        self._prefix = prefix
        self._user = user
        self._day = day
        self._now = now

    async def check(self, *, job_id: str, user_id: str, job: Allowance) -> Exceeded | None:
        """The first budget that is used up, or None when a call may be made."""
        scopes = [
            ("job", self._keys(job_id, user_id)[0], job),
            ("user", self._keys(job_id, user_id)[1], self._user),
            ("day", self._keys(job_id, user_id)[2], self._day),
        ]
        bounded = [scope for scope in scopes if scope[2] != Allowance()]
        if not bounded:
            return None
        pipe = self._redis.pipeline(transaction=False)
        for _, key, _ in bounded:
            pipe.execute_command("HMGET", key, "tokens", "usd")
        for (scope, _, allowance), reply in zip(bounded, await pipe.execute(), strict=True):
            for unit, allowed, used in (
                ("tokens", allowance.tokens, _number(reply[0])),
                ("usd", allowance.usd, _number(reply[1])),
            ):
                if allowed is not None and used >= allowed:
                    return Exceeded(scope=scope, unit=unit, allowed=allowed, used=used)
        return None

    async def spend(self, *, job_id: str, user_id: str, usage: Usage) -> None:
        """Write one answer's usage down in all scopes."""
        pipe = self._redis.pipeline(transaction=False)
        for key in self._keys(job_id, user_id):
            pipe.execute_command("HINCRBY", key, "tokens", usage.tokens)
            if usage.usd:
                pipe.execute_command("HINCRBYFLOAT", key, "usd", usage.usd)
            pipe.execute_command("EXPIRE", key, _KEPT_S)
        await pipe.execute()

    def _keys(self, job_id: str, user_id: str) -> tuple[str, str, str]:
        day = self._now().astimezone(UTC).strftime("%Y-%m-%d")
        start = f"{self._prefix}:llm-budget"
        return f"{start}:job:{job_id}", f"{start}:user:{day}:{user_id}", f"{start}:day:{day}"


def _number(reply: Any) -> float:
    return float(as_text(reply)) if reply is not None else 0.0
