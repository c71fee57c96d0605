"""The workers of one process: one per queue, and the services that they share."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from corral.errors import ConfigurationError, StoreError, StoreUnavailable
from corral.queue.lease import LeaseKeeper
from corral.queue.queue import WORKER_NAME_PREFIX, Queue, cancel_channel
from corral.queue.usher import mend
from corral.queue.worker import BLOCK_S, Interruption, Worker, WorkerSettings
from corral.wire.pipe import Connector, Outage, Pipe, pack

logger = logging.getLogger("corral.queue")

#: How often an idle process asks whether a queue holds anything. With a lease of 10 s, a job of a killed worker starts
#: again within lease + the busy interval; the idle one only has to be shorter than the lease.
IDLE_CHECK_S = 9.0
#: How often the sweep runs while jobs are active anywhere.
BUSY_CHECK_S = 2.5


class Workers:
    """Runs workers for some queues until it is stopped.

    Args:
        queues: Each with a handler.
        pipe: The connection for everything that doesn't block.
        connector: For the further connections: one per queue for the blocking command, one for leases, one for
            requests to cancel.
        outage: Shared with ``pipe``.
        settings: What the workers share.
        lease: How long this process may be silent before its jobs are given to another.
        concurrency: Jobs at once per queue, over what the job types and settings say.
    """

    def __init__(
        self,
        queues: Sequence[Queue],
        *,
        pipe: Pipe,
        connector: Connector,
        outage: Outage,
        settings: WorkerSettings,
        lease: timedelta,
        shutdown_timeout: timedelta,
        concurrency: int | None = None,
    ) -> None:
        without = [queue.spec.name for queue in queues if queue.spec.handler is None]
        if without:
            raise ConfigurationError(
                f"No handler is declared here for {', '.join(without)}; its workers live elsewhere, or @corral.handler "
                "is missing."
            )
        self.name = (
            f"{WORKER_NAME_PREFIX}{socket.gethostname().split('.')[0][:32]}-{os.getpid()}-{secrets.token_hex(4)}"
        )
        self._pipe = pipe
        self._connector = connector
        self._outage = outage
        self._settings = settings
        self._shutdown_timeout = shutdown_timeout
        self._leases = LeaseKeeper(connector, lease)
        self._workers: dict[str, Worker] = {}
        self._concurrency = {
            queue.spec.name: concurrency or queue.spec.concurrency or settings.concurrency for queue in queues
        }
        self._queues = list(queues)
        self._housekeeper: asyncio.Task[None] | None = None
        self._listener: Pipe | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._hurry = asyncio.Event()

    @property
    def active(self) -> dict[str, list[str]]:
        """Ids of the jobs that run now, by job type."""
        return {name: worker.active for name, worker in self._workers.items()}

    @property
    def stopped(self) -> bool:
        """Whether all has ended."""
        return self._stopped.is_set()

    async def start(self) -> None:
        """Connect and begin to claim jobs.

        Raises:
            StoreUnavailable: Redis can't be reached.
        """
        await self._leases.start()
        try:
            await self._listen_for_cancellations()
            for queue in self._queues:
                await self._apply_rate_limit(queue)
                # Named as BullMQ names its own, so that its getWorkers() and dashboards list this one.
                encoded = base64.b64encode(queue.spec.name.encode()).decode()
                blocker = Pipe(
                    self._connector,
                    name=f"{queue.keys.prefix}:{encoded}:w:{self.name}",
                    outage=self._outage,
                    answer_timeout=BLOCK_S + 10,
                )
                await blocker.open()
                self._workers[queue.spec.name] = Worker(
                    queue,
                    pipe=self._pipe,
                    blocker=blocker,
                    leases=self._leases,
                    name=self.name,
                    concurrency=self._concurrency[queue.spec.name],
                    settings=self._settings,
                )
        except BaseException:
            await self._close_services()
            raise
        for worker in self._workers.values():
            worker.start()
        self._housekeeper = asyncio.get_running_loop().create_task(self._keep_house(), name="corral-housekeeper")
        logger.info(
            "worker %s serves %s",
            self.name,
            ", ".join(f"{name} ({count} at once)" for name, count in self._concurrency.items()),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self, timeout: timedelta | None = None) -> None:
        """Claim no more, let active jobs end, put back those that have not ended in time.

        Args:
            timeout: How long they may take; default ``shutdown_timeout``. A second call with zero cuts the first short.
        """
        limit = self._shutdown_timeout if timeout is None else timeout
        if self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop(limit), name="corral-stop")
        elif limit <= timedelta(0):
            self._hurry.set()
            for worker in self._workers.values():
                worker.interrupt_all(Interruption.SHUTDOWN, "the worker is stopped at once")
        await asyncio.shield(self._stopping)

    async def _stop(self, timeout: timedelta) -> None:
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            await asyncio.gather(self._housekeeper, return_exceptions=True)
        for worker in self._workers.values():
            worker.stop_claiming()
        await asyncio.gather(*(worker.stop(timeout) for worker in self._workers.values()), return_exceptions=True)
        # We may have taken markers that were meant for others, and left jobs that nobody was told of.
        with contextlib.suppress(StoreError):
            for queue in self._queues:
                await self._pipe.execute("ZADD", queue.keys.marker, 0, "0")
        await self._close_services()
        self._stopped.set()
        logger.info("worker %s has stopped", self.name)

    async def _close_services(self) -> None:
        if self._listener is not None:
            await self._listener.close()
        await self._leases.stop()

    async def wait(self) -> None:
        """Return when all has ended."""
        await self._stopped.wait()

    async def run_until_signalled(self, *, timeout: timedelta | None = None) -> None:
        """Serve until SIGTERM or SIGINT; a second one stops at once."""
        loop = asyncio.get_running_loop()
        calls: list[asyncio.Task[None]] = []

        def on_signal(number: signal.Signals) -> None:
            if not calls:
                logger.info("%s: no more jobs are claimed; active ones may end", number.name)
                calls.append(loop.create_task(self.stop(timeout)))
            else:
                logger.warning("%s again: active jobs are put back now", number.name)
                calls.append(loop.create_task(self.stop(timedelta(0))))

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, on_signal, number)
        try:
            await self.wait()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            await asyncio.gather(*calls, return_exceptions=True)

    # --- shared services

    async def _apply_rate_limit(self, queue: Queue) -> None:
        """Keep the job type's limit with the queue, where workers of every language and process look."""
        limit = queue.spec.rate_limit
        if limit is None:
            return
        wanted = [str(limit.max_jobs), str(limit.duration_ms)]
        if await self._pipe.execute("HMGET", queue.keys.meta, "max", "duration") != wanted:
            await queue.set_rate_limit(limit.max_jobs, limit.duration)

    async def _listen_for_cancellations(self) -> None:
        prefix = self._queues[0].keys.prefix
        self._listener = Pipe(
            self._connector,
            name="corral-cancellations",
            on_connect=(pack("SUBSCRIBE", cancel_channel(prefix)),),
            outage=self._outage,
            answer_timeout=None,
            on_push=self._cancel_pushed,
        )
        self._listener.on_reconnect.append(self._recall_cancellations)
        await self._listener.open()

    def _cancel_pushed(self, message: Any) -> None:
        try:
            kind, _, text = message
            if kind != "message":
                return
            request = json.loads(text)
            queue, job_id, reason = request["queue"], str(request["id"]), str(request["reason"])
        except (ValueError, TypeError, KeyError):
            logger.warning("a message on the channel for cancellations is not one: %.200r", message)
            return
        for worker in self._workers.values():
            if worker.queue.keys.qualified == queue:
                worker.cancel(job_id, reason)

    def _recall_cancellations(self) -> None:
        asyncio.get_running_loop().create_task(self._look_for_cancellations(), name="corral-recall")

    async def _look_for_cancellations(self) -> None:
        """What was said while the subscription was broken is found with the jobs."""
        for worker in self._workers.values():
            for job_id in worker.active:
                try:
                    reason = await self._pipe.execute("GET", worker.queue.keys.cancelled(job_id))
                except StoreError:
                    return
                if reason:
                    worker.cancel(job_id, str(reason))

    async def _keep_house(self) -> None:
        """Give jobs of dead workers to others, and find jobs that nobody was told of.

        One command asks about all queues; only when something is there, each is looked at.
        """
        pause_s = BUSY_CHECK_S
        while True:
            await asyncio.sleep(pause_s)
            keys: list[str] = []
            for worker in self._workers.values():
                k = worker.queue.keys
                keys += (k.active, k.wait, k.prioritized, k.holding)
                if not worker.knows_next_delay:
                    keys.append(k.delayed)
            try:
                found = await self._pipe.execute("EXISTS", *keys)
                busy = await self._look_closer() if found else False
            except StoreUnavailable:
                busy = True
            except StoreError as error:
                logger.error("the sweep for jobs of dead workers failed: %s", error)
                busy = False
            pause_s = BUSY_CHECK_S if busy else IDLE_CHECK_S

    async def _look_closer(self) -> bool:
        """Sweep the queues that have active jobs, and wake all workers.

        Returns:
            Whether any job is active.
        """
        busy = False
        for worker in self._workers.values():
            worker.wake()
            if worker.usher is None and await self._pipe.execute("EXISTS", worker.queue.keys.holding):
                await mend(worker.queue)
            if not await self._pipe.execute("EXISTS", worker.queue.keys.active):
                continue
            busy = True
            limit = worker.spec.max_crashes if worker.spec.max_crashes is not None else self._settings.max_crashes
            # A little less than the interval, or every second sweep would find the mark of the one before it.
            moved = await worker.queue.scripts.sweep_stalled(max_crashes=limit, interval_ms=round(BUSY_CHECK_S * 800))
            for job_id in moved:
                logger.warning(
                    "%s: job %s was left by a worker that died or lost its lease; it runs again",
                    worker.spec.name,
                    job_id,
                )
        return busy
