"""The usher of a queue that its users share: gives places to their jobs, and slots to jobs that have none yet.

Adding a job does the same on its way. The usher is for what happens while nobody adds: retries and delayed jobs that
come due, jobs of other clients, and jobs that end on other workers, in whatever language.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from corral.errors import LeaseLost, StoreError
from corral.queue.definition import PerUser
from corral.queue.queue import Queue
from corral.queue.status import user_of
from corral.wire.codec import JobRecord, decode_json
from corral.wire.pipe import Reply
from corral.wire.scripts import expect_list, now_ms

logger = logging.getLogger("corral.queue")

#: How often an usher makes its round while there is something to do, and while there is not.
BUSY_ROUND_S = 0.25
IDLE_ROUND_S = 9.0
_ASK_AGAIN_S = 0.2
#: Jobs that one round gives slots to, at most, of each kind.
_ADOPTED_AT_ONCE = 500


class HeldBack(Exception):
    """A claimed job must wait: as many of its user's run as may. It is in Redis, and not this worker's any more."""


class Usher:
    """Serves one queue. Several may, in different processes: each round is one script.

    Args:
        queue: Also one whose job type says nothing of users, for what another process's definition left in it.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        rules = queue.spec.per_user or PerUser()
        #: How many of a user's jobs may run at once; 0 for any number.
        self.max_active = rules.max_active or 0
        self._inside: dict[str, str] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to make rounds."""
        self._task = asyncio.get_running_loop().create_task(self._walk(), name=f"corral-usher-{self._queue.spec.name}")

    async def stop(self) -> None:
        """Make no more rounds; jobs that have ended give their places away before."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*self._leaving, return_exceptions=True)

    async def round(self) -> tuple[int, int, int]:
        """Make one round.

        Returns:
            How many jobs were given a slot, how many users have jobs that are held, and how many jobs wait.

        Raises:
            StoreUnavailable: Redis can't be reached.
        """
        k = self._queue.keys
        arguments = (k.base, self.max_active, _ADOPTED_AT_ONCE, now_ms())
        reply = await self._queue.scripts.run("users:pass", (f"{k.base}users:next",), arguments)
        adopted, holding, waiting = expect_list(reply)
        return int(adopted), int(holding), int(waiting)

    async def enter(self, record: JobRecord, token: str) -> None:
        """Have a place for a job that was claimed.

        Raises:
            HeldBack: There is none.
            LeaseLost: The job is no longer ours, or may be another's as Redis stayed away.
        """
        user = record.raw.get("corral:user") or user_of(decode_json(record.data)) or ""
        if not user or not self.max_active:
            return
        if "corral:place" not in record.raw:
            reply = await self._ask(user, record.id, token)
            if reply == 0:
                raise HeldBack(f"Job {record.id!r} waits until another one of user {user!r} has ended.")
            if reply != 1:
                raise LeaseLost
        self._inside[record.id] = user

    async def _ask(self, user: str, job_id: str, token: str) -> Reply:
        """Ask for a place until there is an answer: an outage is no failure of the job."""
        k = self._queue.keys
        while True:
            arguments = (k.base, user, job_id, self.max_active, token, now_ms())
            try:
                return await self._queue.scripts.run("users:enter", (k.active, k.stalled), arguments)
            except StoreError as error:
                # When Redis is back after the lease, the script says so.
                logger.debug("%s: no answer about a place for job %s: %s", self._queue.spec.name, job_id, error)
                await asyncio.sleep(_ASK_AGAIN_S)

    def leave(self, job_id: str) -> None:
        """A job is not this worker's any more; where it has ended, its user's next one has its place."""
        user = self._inside.pop(job_id, None)
        if user is not None:
            task = asyncio.get_running_loop().create_task(self._leave(job_id, user))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _leave(self, job_id: str, user: str) -> None:
        k = self._queue.keys
        arguments: tuple[Any, ...] = (k.base, user, job_id, self.max_active)
        try:
            await self._queue.scripts.run("users:leave", (f"{k.base}users:next",), arguments)
        except StoreError as error:
            logger.debug("the place of job %s is given away by the next round: %s", job_id, error)

    async def _walk(self) -> None:
        while True:
            pause_s = BUSY_ROUND_S
            try:
                if not any(await self.round()):
                    pause_s = IDLE_ROUND_S
            except StoreError as error:
                logger.debug("%s: the usher's round failed: %s", self._queue.spec.name, error)
            await asyncio.sleep(pause_s)


async def mend(queue: Queue) -> None:
    """Make one round in a queue that isn't declared as shared here, for jobs that are held in it all the same."""
    logger.warning(
        "%s holds jobs for its users, but is not declared with per_user here: each worker should declare the same as "
        "the producers",
        queue.spec.name,
    )
    with contextlib.suppress(StoreError):  # the next round tries again
        await Usher(queue).round()


__all__ = ["HeldBack", "Usher", "mend"]
