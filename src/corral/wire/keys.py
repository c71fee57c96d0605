"""Every Redis key of a queue, with its Redis type, in BullMQ's layout.

Source: the KEYS that BullMQ's scripts name in their headers.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of one queue.

    Args:
        prefix: BullMQ's prefix, ``bull`` by custom; on a Cluster it must hold a hash tag, for example ``{bull}``.
        queue: The queue's name, which is the job type's.
    """

    prefix: str
    queue: str
    #: ``prefix:queue:``, to which a job's id is appended.
    base: str = field(init=False)
    wait: str = field(init=False)  # LIST of ids, next job at the right end
    active: str = field(init=False)  # LIST of ids
    paused: str = field(init=False)  # LIST, unused since BullMQ 5.80 but still named by its scripts
    prioritized: str = field(init=False)  # ZSET id -> priority * 2^32 + counter
    delayed: str = field(init=False)  # ZSET id -> due ms * 4096 + counter
    waiting_children: str = field(init=False)  # ZSET id -> ms
    completed: str = field(init=False)  # ZSET id -> finished ms
    failed: str = field(init=False)  # ZSET id -> finished ms
    stalled: str = field(init=False)  # SET of ids that were active at the last sweep and not renewed since
    stalled_check: str = field(init=False)  # STRING with a time to live: a sweep was made lately
    limiter: str = field(init=False)  # STRING counter with a time to live: jobs started in this window
    repeat: str = field(init=False)  # ZSET scheduler id -> next ms; repeat:<id> HASH
    id: str = field(init=False)  # STRING counter
    meta: str = field(init=False)  # HASH paused, concurrency, max, duration, opts.maxLenEvents
    pc: str = field(init=False)  # STRING counter that keeps FIFO within a priority
    events: str = field(init=False)  # STREAM
    holding: str = field(init=False)  # ZSET user -> ms: those with held jobs (ours; see lua/users.lua for the others)
    marker: str = field(init=False)  # ZSET "0" -> 0 (jobs wait), "1" -> ms (next delayed job)

    def __post_init__(self) -> None:
        base = f"{self.prefix}:{self.queue}:"
        names = {
            "base": "",
            "waiting_children": "waiting-children",
            "stalled_check": "stalled-check",
            "holding": "users:holding",
        }
        for name in self.__dataclass_fields__:
            if name not in {"prefix", "queue"}:
                object.__setattr__(self, name, base + names.get(name, name))

    def job(self, job_id: str) -> str:
        """HASH of one job."""
        return self.base + job_id

    def lock(self, job_id: str) -> str:
        """STRING with a time to live: the lease's token."""
        return f"{self.base}{job_id}:lock"

    def logs(self, job_id: str) -> str:
        """LIST of log lines."""
        return f"{self.base}{job_id}:logs"

    def cancelled(self, job_id: str) -> str:
        """STRING with a time to live: a request to cancel this active job (ours; BullMQ has none)."""
        return f"{self.base}{job_id}:cancelled"

    def metrics(self, target: str) -> str:
        """HASH of counters per minute; ``:data`` behind it is the LIST of points. ``target``: completed, failed."""
        return f"{self.base}metrics:{target}"

    def deduplication(self, deduplication_id: str) -> str:
        """STRING: the id of the job that holds a deduplication id."""
        return f"{self.base}de:{deduplication_id}"

    @property
    def qualified(self) -> str:
        """``prefix:queue``, by which jobs name their parent's queue."""
        return self.base[:-1]
