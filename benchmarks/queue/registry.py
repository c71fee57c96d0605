"""Who is measured: each peer, its pinned packages, and how its completions are counted in Redis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

QUEUE = "bench"

Redis = Any  # a synchronous redis.Redis
Count = Callable[[Redis], int]


def _sorted_set(key: str) -> Count:
    return lambda redis: int(redis.zcard(key))


def _keys(pattern: str) -> Count:
    def count(redis: Redis) -> int:
        return sum(1 for _ in redis.scan_iter(match=pattern, count=5000))

    return count


def _saq_complete(redis: Redis) -> int:
    """SAQ keeps the result in the job's own key, beside its status."""
    done = 0
    batch: list[bytes] = []
    for key in redis.scan_iter(match=f"saq:job:{QUEUE}:*", count=5000):
        batch.append(key)
        if len(batch) == 1000:
            done += sum(1 for value in redis.mget(batch) if value and b'"status": "complete"' in value)
            batch.clear()
    return done + sum(1 for value in (redis.mget(batch) if batch else ()) if value and b'"status": "complete"' in value)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One job queue and how to run it."""

    name: str
    #: Its adapter in ``peers/``.
    program: str
    #: File in ``locks/`` with its pinned packages; None runs in the harness's own environment.
    lock: str | None
    #: How many completions are recorded in Redis.
    recorded: Count
    #: False when it keeps no return values.
    stores_results: bool = True
    #: Jobs at once that one process can do; None when unbounded.
    most_at_once: int | None = None
    #: Why delays can't be measured; None when they can.
    no_delays: str | None = None
    #: True when it only replays plain jobs: neither pickup nor delays.
    plain_only: bool = False

    @property
    def is_node(self) -> bool:
        """Whether its adapter is a Node program."""
        return self.program.endswith(".mjs")


_BULL = _sorted_set(f"bull:{QUEUE}:completed")

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(name="corral", program="corral_peer.py", lock=None, recorded=_BULL),
        Peer(name="bullmq-node", program="bullmq_node.mjs", lock="bullmq-node", recorded=_BULL),
        Peer(name="bullmq-python", program="bullmq_python.py", lock="bullmq-python.txt", recorded=_BULL),
        Peer(name="limit", program="limit.py", lock="bullmq-python.txt", recorded=_BULL, plain_only=True),
        Peer(
            name="bee-queue",
            program="bee_queue.mjs",
            lock="bee-queue",
            recorded=lambda redis: int(redis.scard(f"bq:{QUEUE}:succeeded")),
            stores_results=False,
        ),
        Peer(name="arq", program="arq_peer.py", lock="arq.txt", recorded=_keys("arq:result:*")),
        Peer(name="saq", program="saq_peer.py", lock="saq.txt", recorded=_saq_complete),
        Peer(
            name="taskiq",
            program="taskiq_peer.py",
            lock="taskiq.txt",
            recorded=_keys("taskiq-result:*"),
            no_delays="a separate scheduler process",
        ),
        Peer(
            name="streaq",
            program="streaq_peer.py",
            lock="streaq.txt",
            recorded=_keys(f"streaq:{QUEUE}:task:results:*"),
        ),
        Peer(name="dramatiq", program="dramatiq_peer.py", lock="dramatiq.txt", recorded=_keys("dramatiq-results:*")),
        Peer(name="celery", program="celery_peer.py", lock="celery.txt", recorded=_keys("celery-task-meta-*")),
        Peer(
            name="rq",
            program="rq_peer.py",
            lock="rq.txt",
            recorded=_sorted_set(f"rq:finished:{QUEUE}"),
            most_at_once=1,
        ),
        Peer(
            name="huey",
            program="huey_peer.py",
            lock="huey.txt",
            recorded=lambda redis: int(redis.hlen(f"huey.results.{QUEUE}")),
        ),
    )
}
