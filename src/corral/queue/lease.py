"""Leases: what keeps a running job ours, renewed from a thread of its own so that a busy event loop keeps its jobs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from corral.errors import StoreError
from corral.wire.codec import packed
from corral.wire.keys import QueueKeys
from corral.wire.pipe import Connector, Outage, Pipe
from corral.wire.scripts import QueueScripts, expect_list, load_commands

logger = logging.getLogger("corral.queue")

#: One script call renews at most this many.
_BATCH = 1_000


@dataclass(eq=False, slots=True)
class Held:
    """One lease: compared by identity, so that a renewal that comes late can't be taken for a later lease's."""

    job_id: str
    token: str
    on_lost: Callable[[Held], None]


class LeaseKeeper:
    """Renews the leases of one process's active jobs.

    Args:
        connector: Its thread has a connection of its own.
        lease: How long a lease lasts; renewed three times in that time.
    """

    def __init__(self, connector: Connector, lease: timedelta) -> None:
        self._connector = connector
        self.lease_ms = max(1, round(lease.total_seconds() * 1000))
        self._held: dict[QueueKeys, dict[str, Held]] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._owner: asyncio.AbstractEventLoop | None = None
        self._failure: BaseException | None = None

    async def start(self) -> None:
        """Start the thread, and return when it is connected.

        Raises:
            StoreUnavailable: It can't connect.
        """
        self._owner = asyncio.get_running_loop()
        ready: asyncio.Future[None] = self._owner.create_future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="corral-leases", daemon=True)
        self._thread.start()
        await ready

    async def stop(self) -> None:
        """End the thread; leases run out by themselves."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join)
        self._thread = None

    def queue(self, keys: QueueKeys) -> dict[str, Held]:
        """The held leases of one queue, by job id. The worker adds and removes them."""
        return self._held.setdefault(keys, {})

    def _run(self, ready: asyncio.Future[None]) -> None:
        asyncio.run(self._keep(ready))

    async def _keep(self, ready: asyncio.Future[None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        owner = ready.get_loop()
        # The main connection tells of outages; this one is silent.
        pipe = Pipe(self._connector, name="corral-leases", on_connect=load_commands(), outage=_Silent())
        try:
            await pipe.open()
        except StoreError as error:
            owner.call_soon_threadsafe(ready.set_exception, error)
            return
        owner.call_soon_threadsafe(ready.set_result, None)
        wake = asyncio.Event()
        pipe.on_reconnect.append(wake.set)
        stop = asyncio.create_task(self._stop.wait())
        try:
            while not self._stop.is_set():
                again = asyncio.create_task(wake.wait())
                await asyncio.wait({stop, again}, timeout=self.lease_ms / 3000, return_when=asyncio.FIRST_COMPLETED)
                again.cancel()
                wake.clear()
                if not self._stop.is_set():
                    await self._renew_all(pipe)
        finally:
            stop.cancel()
            await pipe.close()

    async def _renew_all(self, pipe: Pipe) -> None:
        for keys, held in list(self._held.items()):
            leases = list(held.values())
            scripts = QueueScripts(pipe, keys)
            for start in range(0, len(leases), _BATCH):
                try:
                    await self._renew(scripts, leases[start : start + _BATCH])
                except StoreError as error:
                    logger.debug("leases of %s not renewed: %s", keys.queue, error)
                    return

    async def _renew(self, scripts: QueueScripts, leases: list[Held]) -> None:
        """Renew, and tell of each that is lost.

        Wire:
            extendLocks; KEYS stalled; ARGV prefix, msgpack of tokens, msgpack of ids, ms; replies the ids that failed.
        """
        reply = await scripts.run(
            "extendLocks",
            (scripts.keys.stalled,),
            (
                scripts.keys.base,
                packed([lease.token for lease in leases]),
                packed([lease.job_id for lease in leases]),
                self.lease_ms,
            ),
        )
        failed = {str(job_id) for job_id in expect_list(reply)}
        if not failed or self._owner is None:
            return
        for lease in leases:
            if lease.job_id in failed:
                self._owner.call_soon_threadsafe(lease.on_lost, lease)


class _Silent(Outage):
    """Tells nothing."""

    def began(self, error: BaseException | None) -> None:
        """Another connection of the process tells it."""

    def ended(self) -> None:
        """Another connection of the process tells it."""
