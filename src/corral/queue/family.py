"""A flow, seen from one of its jobs: who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from corral.wire.keys import QueueKeys

if TYPE_CHECKING:
    from corral.wire.connection import RedisClient

_MOST_CHILDREN = 100


@dataclass(frozen=True, slots=True)
class Relative:
    """A job named by another; it may be gone."""

    job_type: str
    id: str


async def children_of(redis: RedisClient, keys: QueueKeys, job_id: str) -> list[Relative]:
    """The jobs that this one waits for or waited for; at most 100.

    Wire:
        ``<job>:dependencies`` SET of keys of children that have not ended; ``:processed`` HASH and ``:failed`` HASH by
        those keys, of completed and of ignored failed ones; ``:unsuccessful`` ZSET of failed ones.
    """
    job = keys.job(job_id)
    async with redis.pipeline(transaction=False) as pipe:
        pipe.sscan(f"{job}:dependencies", count=_MOST_CHILDREN)
        pipe.hkeys(f"{job}:processed")
        pipe.hkeys(f"{job}:failed")
        pipe.zrange(f"{job}:unsuccessful", 0, _MOST_CHILDREN - 1)
        (_, waiting), processed, ignored, failed = await pipe.execute()
    names = dict.fromkeys(str(name) for name in (*processed, *ignored, *failed, *waiting))
    found = [relative(name, keys.prefix) for name in names]
    return sorted((one for one in found if one), key=lambda one: (one.job_type, one.id))[:_MOST_CHILDREN]


def relative(qualified: str, prefix: str) -> Relative | None:
    """Read ``prefix:queue:id``; None when it is another prefix's."""
    if not qualified.startswith(f"{prefix}:"):
        return None
    job_type, _, job_id = qualified[len(prefix) + 1 :].rpartition(":")
    return Relative(job_type, job_id) if job_type and job_id else None
