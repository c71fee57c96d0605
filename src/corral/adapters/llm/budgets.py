"""What may be spent on models: per job, per user and day, and per day, counted in Redis and checked before each call.

A call that is allowed holds the most that it may take until it has ended, so that jobs which run at the same time don't
each pass a budget by one call: together they pass it by no more than one job alone could, which is the call that was
running when it was reached. What running calls hold is only an upper bound, so it refuses nobody: a call for which the
bound leaves no room waits until the others have ended and it is known what they took.

Keys (the first three are hashes with ``tokens`` and ``usd``, expiring two days after their last use):
    {prefix}:llm-budget:job:{job}                 one job's, all attempts together; ``settled`` is its last call
    {prefix}:llm-budget:user:{day}:{user}         one user's on one day (UTC)
    {prefix}:llm-budget:day:{day}                 everybody's on one day (UTC)
    {prefix}:llm-budget:held:user:{day}:{user}    hash of job to ``token expiry tokens usd``: the most that its running
                                                  call may take. A job makes one call at a time, so an attempt's call
                                                  takes the place of one that a killed worker left
    {prefix}:llm-budget:held:day:{day}            the same for everybody
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from corral.adapters.cleanup import see_through
from corral.adapters.llm.port import ModelRequest, ModelTraits, Usage
from corral.adapters.llm.redis_client import RedisClient, as_text, end_task, insist

_KEPT_S = 2 * 24 * 3600
_HELD_MS = 30_000
"""How long a killed worker's call is counted on."""
_RENEWAL_S = 8.0
_POLL_FIRST_S = 0.1
_POLL_LONGEST_S = 1.0
_SCOPES = ("job", "user", "day")
_UNITS = ("tokens", "usd")
_TOKENS_AROUND = 16
"""Of a message or a tool: what the provider writes around it."""
_GO_ON = 0
_USED_UP = 1

# KEYS the ledgers of job, user and day, and the holds of user and day; ARGV job, token, life in ms, most tokens, most
# usd, then the bounds of job, user and day: tokens and usd each, "" for none. Replies what, scope, unit, amount, where
# what is 0 go on, 1 used up, 2 wait; scope and unit count from 1, and the amount is text, as Redis cuts numbers.
_RESERVE = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = nil
for at = 1, 3 do
  local bounds = {tonumber(ARGV[4 + at * 2]), tonumber(ARGV[5 + at * 2])}
  if bounds[1] or bounds[2] then
    local spent = redis.call('HMGET', KEYS[at], 'tokens', 'usd')
    local held = {0, 0}
    if at > 1 then
      local holds = redis.call('HGETALL', KEYS[at + 2])
      for i = 1, #holds, 2 do
        local expiry, tokens, usd = string.match(holds[i + 1], '^%S+ (%S+) (%S+) (%S+)$')
        if tonumber(expiry) <= now then
          redis.call('HDEL', KEYS[at + 2], holds[i])
        elseif holds[i] ~= ARGV[1] then
          held = {held[1] + tonumber(tokens), held[2] + tonumber(usd)}
        end
      end
    end
    for unit = 1, 2 do
      local used = tonumber(spent[unit] or 0)
      if bounds[unit] and used >= bounds[unit] then
        return {1, at, unit, string.format('%.17g', used)}
      end
      if bounds[unit] and held[unit] > 0 and used + held[unit] >= bounds[unit] then
        wait = wait or {2, at, unit, string.format('%.17g', held[unit])}
      end
    end
  end
end
if wait then return wait end
for at = 2, 3 do
  if ARGV[4 + at * 2] ~= '' or ARGV[5 + at * 2] ~= '' then
    local hold = ARGV[2] .. ' ' .. string.format('%.0f', now + ARGV[3]) .. ' ' .. ARGV[4] .. ' ' .. ARGV[5]
    redis.call('HSET', KEYS[at + 2], ARGV[1], hold)
    redis.call('PEXPIRE', KEYS[at + 2], ARGV[3] * 2)
  end
end
return {0, 0, 0, '0'}
"""
# KEYS holds; ARGV job, token, life in ms, most tokens, most usd. A hold that ran out meanwhile is taken again.
_RENEW = """
local time = redis.call('TIME')
local expiry = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[3])
for _, key in ipairs(KEYS) do
  local held = redis.call('HGET', key, ARGV[1])
  if not held or string.match(held, '^%S+') == ARGV[2] then
    redis.call('HSET', key, ARGV[1], ARGV[2] .. ' ' .. expiry .. ' ' .. ARGV[4] .. ' ' .. ARGV[5])
    redis.call('PEXPIRE', key, ARGV[3] * 2)
  end
end
"""
# KEYS as of _RESERVE; ARGV job, token. Another call's hold is left alone.
_RELEASE = """
for at = 4, 5 do
  local held = redis.call('HGET', KEYS[at], ARGV[1])
  if held and string.match(held, '^%S+') == ARGV[2] then redis.call('HDEL', KEYS[at], ARGV[1]) end
end
"""
# KEYS as of _RESERVE; ARGV job, token, tokens, usd or "", life of the ledgers in s. Sent again, it counts nothing.
_SETTLE = f"""
if redis.call('HGET', KEYS[1], 'settled') ~= ARGV[2] then
  redis.call('HSET', KEYS[1], 'settled', ARGV[2])
  for at = 1, 3 do
    redis.call('HINCRBY', KEYS[at], 'tokens', ARGV[3])
    if ARGV[4] ~= '' then redis.call('HINCRBYFLOAT', KEYS[at], 'usd', ARGV[4]) end
    redis.call('EXPIRE', KEYS[at], ARGV[5])
  end
end
{_RELEASE}
"""


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """Bounds of one scope; None is no bound."""

    tokens: int | None = None
    usd: float | None = None

    def __bool__(self) -> bool:
        return self.tokens is not None or self.usd is not None


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


class BudgetUsedUp(Exception):
    """No further call may be made."""

    def __init__(self, exceeded: Exceeded) -> None:
        super().__init__(str(exceeded))
        self.exceeded = exceeded


class Reservation:
    """Room for one call of one job."""

    def __init__(self, redis: RedisClient, job_id: str, keys: tuple[str, ...], most: Usage) -> None:
        self._redis = redis
        self._job_id = job_id
        self._keys = keys
        self._most = most
        self._token = secrets.token_hex(8)
        self._renewing: asyncio.Task[None] | None = None

    async def settle(self, usage: Usage) -> None:
        """Write down what the call took, on the day that it was reserved on, and let go of the rest.

        Waits for a Redis that is away: what was paid for must be counted.
        """
        await self._stop_renewing()
        usd = "" if usage.usd is None else repr(usage.usd)
        await insist(lambda: self._send(_SETTLE, self._keys, usage.tokens, usd, _KEPT_S))

    async def try_to_take(self, allowances: tuple[Allowance, ...]) -> Exceeded | None:
        """Take the room if it is there; else the budget of which running calls hold what is left.

        Raises:
            BudgetUsedUp: Waiting is no use.
        """
        bounds = [bound for one in allowances for bound in (one.tokens, one.usd)]
        told = ["" if bound is None else repr(bound) for bound in bounds]
        what, scope, unit, amount = await insist(lambda: self._send(_RESERVE, self._keys, *self._amounts(), *told))
        if int(what) == _GO_ON:
            held = [key for key, one in zip(self._keys[3:], allowances[1:], strict=True) if one]
            if held:
                self._renewing = asyncio.create_task(self._renew(held))
            return None
        exceeded = Exceeded(
            scope=_SCOPES[int(scope) - 1],
            unit=_UNITS[int(unit) - 1],
            allowed=bounds[2 * int(scope) + int(unit) - 3] or 0.0,
            used=float(as_text(amount)),
        )
        if int(what) == _USED_UP:
            raise BudgetUsedUp(exceeded)
        return exceeded

    async def release(self) -> None:
        """Let go of all of it; nothing happens to one that is settled."""
        if self._renewing is not None:
            await self._stop_renewing()
            with contextlib.suppress(Exception):  # it expires by itself
                await self._send(_RELEASE, self._keys)

    async def _renew(self, held: list[str]) -> None:
        while True:
            await asyncio.sleep(_RENEWAL_S)
            with contextlib.suppress(Exception):  # a Redis that is away must not end the call that is paid for
                await self._send(_RENEW, held, *self._amounts())

    async def _stop_renewing(self) -> None:
        # Before anything is let go of: a renewal under way would take it again.
        if self._renewing is not None:
            await end_task(self._renewing)

    def _amounts(self) -> tuple[int, int, str]:
        return _HELD_MS, self._most.tokens, repr(self._most.usd or 0.0)

    def _send(self, script: str, keys: Sequence[str], *arguments: str | float) -> Awaitable[Any]:
        return self._redis.execute_command("EVAL", script, len(keys), *keys, self._job_id, self._token, *arguments)


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
            prefix: Start of the keys; on a Cluster with a hash tag, as all of a call's keys are used at once.
            user: What each user's jobs may spend on one day.
            day: What all jobs may spend on one day.
            now: The clock.
        """
        self._redis = redis
        self._prefix = prefix
        self._user = user
        self._day = day
        self._now = now

    @contextlib.asynccontextmanager
    async def reserve(
        self,
        *,
        job_id: str,
        user_id: str,
        job: Allowance,
        most: Usage,
        on_wait: Callable[[str], Awaitable[None]] | None = None,
    ) -> AsyncIterator[Reservation]:
        """Hold room for one call of a job until the block ends, waiting for it while others hold it.

        Args:
            job_id: Whose call it is; a job makes one at a time.
            user_id: Whose job it is.
            job: What the job may spend.
            most: The most that the call may take; of money None where the price is not known.
            on_wait: Is told, once, that and why the call waits.

        Raises:
            BudgetUsedUp: What was spent has reached a budget.
        """
        reservation = Reservation(self._redis, job_id, self._keys(job_id, user_id), most)
        try:
            allowances = (job, self._user, self._day)
            if any(allowances):
                await self._wait_for_room(reservation, allowances, on_wait)
            yield reservation
        finally:
            await see_through(reservation.release())

    async def _wait_for_room(
        self,
        reservation: Reservation,
        allowances: tuple[Allowance, ...],
        on_wait: Callable[[str], Awaitable[None]] | None,
    ) -> None:
        pause_s = _POLL_FIRST_S
        while (held := await reservation.try_to_take(allowances)) is not None:
            if on_wait is not None:
                await on_wait(
                    f"waiting: running calls may take up to {held.used:g} {held.unit}, and what is left of the "
                    f"{held.scope}'s budget of {held.allowed:g} is less"
                )
                on_wait = None
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _POLL_LONGEST_S)

    def _keys(self, job_id: str, user_id: str) -> tuple[str, ...]:
        day = self._now().astimezone(UTC).strftime("%Y-%m-%d")
        start = f"{self._prefix}:llm-budget"
        ledgers = (f"{start}:job:{job_id}", f"{start}:user:{day}:{user_id}", f"{start}:day:{day}")
        return *ledgers, f"{start}:held:user:{day}:{user_id}", f"{start}:held:day:{day}"


def most_of(request: ModelRequest, traits: ModelTraits) -> Usage:
    """The most that a call may take.

    No tokenizer makes more tokens of a text than it has bytes in UTF-8, question and answer fit into the context, and
    an answer is no longer than was asked for.
    """
    texts = [request.system, *(tool.name + tool.description + tool.parameters for tool in request.tools)]
    if request.output_schema is not None:
        texts.append(json.dumps(request.output_schema))
    for message in request.messages:
        said = message.text + "".join(call.name + call.arguments for call in message.tool_calls)
        texts.append(said if message.native is None else message.native)
    asked = sum(len(text.encode(errors="replace")) + _TOKENS_AROUND for text in texts)
    output = min(request.max_tokens, traits.context_tokens)
    usage = Usage(input_tokens=min(asked, traits.context_tokens - output), output_tokens=output)
    prices = traits.usd_per_input_token, traits.usd_per_output_token
    if prices[0] is None or prices[1] is None:
        return usage
    return usage.model_copy(update={"usd": usage.input_tokens * prices[0] + output * prices[1]})
