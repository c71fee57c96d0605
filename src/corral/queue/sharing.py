"""Queues that their users share in turns: what is sent when a job is added, and how it stands by user.

The order itself is made in Redis, by ``wire/lua/users.lua``.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from corral.errors import PayloadInvalid, TooManyJobs
from corral.queue.options import JobOptions
from corral.queue.status import user_of
from corral.wire.codec import decode_json
from corral.wire.keys import QueueKeys
from corral.wire.pipe import Reply, ReplyError, pack, reply_failure
from corral.wire.scripts import QueueScripts, expect_list, script
from corral.wire.shared import FIRST_SLOT, Kind, Refusal, Share

if TYPE_CHECKING:
    from corral.queue.definition import JobTypeSpec
    from corral.queue.queue import Queue

_ROOM = "users:room"
_LOOKED_AT = 2_000
_HOLDING_LOOKED_AT = 1_000
_READ_AT_ONCE = 500
_FORGOTTEN_AT_ONCE = 1_000


@dataclass(frozen=True, kw_only=True, slots=True)
class UserShare:
    """One user's part of a queue now."""

    #: None: the jobs that name no user.
    user_id: str | None
    #: Ready to run, and in line.
    waiting: int
    active: int
    #: Ready to run, and kept back as so many of this user's jobs are active as may be (BullMQ shows them as delayed).
    held: int


def share_of(
    spec: JobTypeSpec,
    user: str,
    options: JobOptions,
    *,
    delay_ms: int,
    parent: bool = False,
    refusal: Refusal | None = None,
) -> Share | None:
    """What the adding script has to know; None for a queue that isn't shared.

    Args:
        user: Whose job it is; ``""``: nobody's.

    Raises:
        PayloadInvalid: An option that such a queue can't keep.
    """
    rules = spec.per_user
    if rules is None:
        return None
    if options.lifo:
        raise PayloadInvalid(f"lifo: the users of {spec.name!r} take turns, and a job can't go ahead of the others'.")
    if options.priority >= FIRST_SLOT:
        raise PayloadInvalid(
            f"priority: expected 0 to {FIRST_SLOT - 1:,} in {spec.name!r}, whose users take turns (it orders a user's "
            f"own jobs), got {options.priority}."
        )
    kind: Kind = "parent" if parent else "later" if delay_ms else "now"
    return Share(
        user=user,
        kind=kind,
        # A transaction's room is looked for before it begins to add.
        max_waiting=rules.max_waiting or 0,
        max_active=rules.max_active or 0,
        refusal=refusal,
    )


def too_many(spec: JobTypeSpec, user: str, adding: int = 1) -> TooManyJobs:
    """The error of a user who has no room."""
    limit = spec.per_user.max_waiting or 0 if spec.per_user is not None else 0
    more = "" if adding == 1 else f", and {adding} more don't fit"
    return TooManyJobs(
        f"User {user!r} has too many jobs waiting in {spec.name!r}: at most {limit} may{more}. Nothing was added; wait "
        "until some have started, or cancel them.",
        user_id=user,
        job_type=spec.name,
        limit=limit,
    )


class Room:
    """The room that the jobs of one transaction need, looked for before the first is added.

    Args:
        keys: Any queue's of the transaction.
    """

    def __init__(self, keys: QueueKeys) -> None:
        self.refusal = Refusal(f"{keys.base}users:refused", secrets.token_hex(8))
        self._needed: Counter[tuple[str, str]] = Counter()
        self._queues: dict[str, Queue] = {}

    def count(self, queue: Queue, data: Any) -> None:
        """Count one job that is to be added."""
        rules = queue.spec.per_user
        if rules is None or rules.max_waiting is None:
            return
        user = user_of(data)
        if user:
            self._queues[queue.spec.name] = queue
            self._needed[queue.spec.name, user] += 1

    def __bool__(self) -> bool:
        """Whether anybody's is bounded."""
        return bool(self._needed)

    def commands(self) -> list[tuple[str, bytes]]:
        """One script call for each user and queue, to stand before the adding ones."""
        called = script(_ROOM)
        found = []
        for (name, user), needed in self._needed.items():
            queue = self._queues[name]
            rules = queue.spec.per_user
            arguments = (queue.keys.base, user, (rules and rules.max_waiting) or 0, needed, self.refusal.token)
            found.append((_ROOM, pack("EVALSHA", called.sha, 1, self.refusal.key, *arguments)))
        return found

    def check(self, replies: Sequence[Reply]) -> None:
        """Read the replies to ``commands``.

        Raises:
            TooManyJobs: A user has no room, and nothing was added.
        """
        for ((name, user), needed), reply in zip(self._needed.items(), replies, strict=False):
            if isinstance(reply, int) and reply >= 0:
                raise too_many(self._queues[name].spec, user, needed)


async def users_of(queue: Queue, *, limit: int = 100) -> list[UserShare]:
    """How a shared queue stands by user, the one with the most jobs in line first.

    Args:
        limit: How many users to tell of, at most. Of the waiting jobs the first 2,000 are looked at.
    """
    k, pipe = queue.keys, queue.scripts.pipe
    holding = [str(user) for user in expect_list(await pipe.execute("ZRANGE", k.holding, 0, _HOLDING_LOOKED_AT - 1))]
    held = {user: int(await pipe.execute("ZCARD", f"{k.base}users:held:{user}")) for user in holding}
    active = await _count_users(queue, await pipe.execute("LRANGE", k.active, 0, _LOOKED_AT - 1))
    ready = expect_list(await pipe.execute("LRANGE", k.wait, -_LOOKED_AT, -1))
    ready += expect_list(await pipe.execute("ZRANGE", k.prioritized, 0, _LOOKED_AT - 1))
    waiting = await _count_users(queue, ready[:_LOOKED_AT])
    found = [
        UserShare(user_id=user or None, waiting=waiting[user], active=active[user], held=held.get(user, 0))
        for user in {*held, *active, *waiting}
    ]
    return sorted(found, key=lambda one: (-one.waiting - one.held, -one.active, one.user_id or ""))[:limit]


async def _count_users(queue: Queue, ids: Any) -> Counter[str]:
    """How many of these jobs each user has."""
    found: Counter[str] = Counter()
    for start in range(0, len(ids), _READ_AT_ONCE):
        some = ids[start : start + _READ_AT_ONCE]
        burst = b"".join(pack("HMGET", queue.keys.job(str(job_id)), "corral:user", "data") for job_id in some)
        for reply in await asyncio.gather(*queue.scripts.pipe.send_many(burst, len(some))):
            if isinstance(reply, ReplyError):
                raise reply_failure(reply)
            noted, text = expect_list(reply)
            if noted is not None or text is not None:  # else it was removed meanwhile
                found[str(noted) if noted is not None else user_of(decode_json(text)) or ""] += 1
    return found


async def forget_users(scripts: QueueScripts, keys: QueueKeys) -> None:
    """Remove what is kept of a queue's users, after the queue itself was removed.

    Some at a time, so that the server answers others in between: there may be hundreds of thousands.
    """
    cursor = "0"
    while True:
        cursor, found = await scripts.pipe.execute(
            "SCAN", cursor, "MATCH", f"{_escaped(keys.base)}users:*", "COUNT", _FORGOTTEN_AT_ONCE
        )
        if found:
            await scripts.pipe.execute("UNLINK", *(str(key) for key in found))
        if str(cursor) == "0":
            return


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "*?[]^\\" else c for c in text)
