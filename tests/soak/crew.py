"""Real worker processes, and a book of what their handlers did."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from redis.asyncio import Redis
from tests.interop.driver import PACKAGES, node_program

from corral.errors import StoreError
from corral.wire.connection import open_client, translate_errors


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger."""

    event: str
    id: str
    at: float
    pid: int
    attempt: int
    crashes: int
    type: str


@dataclass
class WorkerProcess:
    """One process of ``worker_program``, or another program that prints ``ready``."""

    command: Sequence[str]
    log_path: Path
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> Self:
        """Start it and return when it serves."""
        with self.log_path.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])},
            )
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), 60)
        assert line.strip() == b"ready", f"the worker did not start: {self.log}"
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    async def end(self, number: signal.Signals = signal.SIGTERM, *, within_s: float = 60) -> int:
        """Send a signal and wait for the end; the exit code."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)
            os.kill(self.process.pid, signal.SIGCONT)
        return await asyncio.wait_for(self.process.wait(), within_s)


@dataclass
class Crew:
    """Worker processes that serve the same queues, their ledger, and a client of the same Redis.

    Args:
        url: What the workers connect to.
        folder: For ledgers and logs.
        queues: Served by every worker.
        direct_url: What the test itself asks; the same by default.
    """

    url: str
    prefix: str
    folder: Path
    queues: Sequence[str]
    direct_url: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    workers: list[WorkerProcess] = field(default_factory=list)
    _number: int = 0
    _started: list[WorkerProcess] = field(default_factory=list)
    _read: dict[Path, int] = field(default_factory=dict)
    _entries: list[Entry] = field(default_factory=list)

    @property
    def redis(self) -> Redis:
        """The test's own client."""
        return self._redis

    async def __aenter__(self) -> Self:
        self._redis = open_client(self.direct_url or self.url)
        for queue in self.queues:
            # All events of the run are looked at, and BullMQ keeps 10,000.
            await self._redis.hset(self.key(queue, "meta"), "opts.maxLenEvents", "1000000")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._started:
            if worker.process is not None and worker.process.returncode is None:
                await worker.end(signal.SIGKILL)
            if error is not None and worker.process is not None:
                print(f"--- log of worker {worker.pid}\n{worker.log[-6000:]}")  # noqa: T201 - shown with the failure
        await self._redis.aclose()

    async def reconnect(self) -> None:
        """Begin anew with the test's own client, as soon as somebody serves the queue's keys again."""
        while True:
            await self._redis.aclose()
            self._redis = open_client(self.direct_url or self.url)
            try:
                with translate_errors():
                    await self._redis.set(self.key("reconnected"), "1")  # a write: a replica does not do
            except StoreError:
                await asyncio.sleep(0.1)
            else:
                return

    def key(self, queue: str, *parts: str) -> str:
        return ":".join((self.prefix, queue, *parts))

    async def hire(self, **config: Any) -> WorkerProcess:
        """Start one more worker."""
        self._number += 1
        settings = {
            "url": self.url,
            "prefix": self.prefix,
            "queues": list(self.queues),
            "ledger": str(self.folder / f"ledger-{self._number}.jsonl"),
            **self.config,
            **config,
        }
        worker = WorkerProcess(
            [sys.executable, "-m", "tests.soak.worker_program", json.dumps(settings)],
            self.folder / f"worker-{self._number}.log",
        )
        self._started.append(worker)
        await worker.start()
        self.workers.append(worker)
        return worker

    async def hire_node(self, **config: Any) -> WorkerProcess:
        """Start one more worker, of Node's BullMQ."""
        node = node_program()
        assert node is not None, "Node is missing: `make` installs it"
        self._number += 1
        settings = {
            "url": self.direct_url or self.url,
            "prefix": self.prefix,
            "queues": list(self.queues),
            "ledger": str(self.folder / f"ledger-{self._number}.jsonl"),
            "packages": str(PACKAGES),
            **config,
        }
        script = Path(__file__).with_name("node_worker.mjs")
        worker = WorkerProcess([node, str(script), json.dumps(settings)], self.folder / f"worker-{self._number}.log")
        self._started.append(worker)
        await worker.start()
        self.workers.append(worker)
        return worker

    async def dismiss(self, worker: WorkerProcess, number: signal.Signals = signal.SIGTERM) -> int:
        """End a worker; the exit code."""
        code = await worker.end(number)
        self.workers.remove(worker)
        return code

    def ledger(self, event: str | None = None, job_id: str | None = None) -> list[Entry]:
        """What all handlers wrote, by time."""
        for path in self.folder.glob("ledger-*.jsonl"):
            offset = self._read.get(path, 0)
            with path.open("rb") as file:
                file.seek(offset)
                new = file.read()
            complete = new.rfind(b"\n") + 1  # the last line may be in the middle of being written
            self._entries += [Entry(**json.loads(line)) for line in new[:complete].splitlines()]
            self._read[path] = offset + complete
        found = [e for e in self._entries if event in {None, e.event} and job_id in {None, e.id}]
        return sorted(found, key=lambda entry: entry.at)

    async def wait_for_entries(
        self, event: str, count: int, *, within_s: float = 60, job_id: str | None = None
    ) -> list[Entry]:
        """Wait until the handlers have written so many."""
        await eventually(
            lambda: len(self.ledger(event, job_id)) >= count, f"{count} {event!r} entries in the ledger", within_s
        )
        return self.ledger(event, job_id)

    async def state_counts(self, queue: str) -> dict[str, int]:
        """How many jobs are in each state, counted at the server."""
        async with self._redis.pipeline(transaction=True) as pipe:
            for name in ("wait", "active", "paused"):
                pipe.llen(self.key(queue, name))
            for name in ("prioritized", "delayed", "completed", "failed", "waiting-children"):
                pipe.zcard(self.key(queue, name))
            counts = await pipe.execute()
        names = ("wait", "active", "paused", "prioritized", "delayed", "completed", "failed", "waiting-children")
        return dict(zip(names, map(int, counts), strict=True))

    async def wait_until_done(self, queue: str, total: int, *, within_s: float = 120) -> None:
        """Wait until so many jobs have ended; fail at once when more have."""
        deadline = time.monotonic() + within_s
        while True:
            counts = await self.state_counts(queue)
            done = counts["completed"] + counts["failed"]
            assert done <= total, f"{done} of {total} jobs have ended: {counts}"
            if done == total:
                return
            assert time.monotonic() < deadline, f"not all of {total} jobs ended within {within_s} s: {counts}"
            await asyncio.sleep(0.05)

    async def outcomes(self, queue: str) -> dict[str, Counter[str]]:
        """How often each job is recorded as completed and failed, from the queue's events."""
        found: dict[str, Counter[str]] = {}
        start = "-"
        while entries := await self._redis.xrange(self.key(queue, "events"), min=start, count=5000):
            for _, fields in cast("list[tuple[str, dict[str, str]]]", entries):
                if fields.get("event") in {"completed", "failed"}:
                    found.setdefault(fields["jobId"], Counter())[fields["event"]] += 1
            start = f"({entries[-1][0]!s}"
        return found

    async def assert_each_completed_once(self, queue: str, job_ids: Iterable[str]) -> None:
        """Nothing lost, nothing ended twice in the record, nothing left lying about."""
        expected = set(job_ids)
        counts = await self.state_counts(queue)
        assert counts["completed"] == len(expected), counts
        assert sum(counts.values()) == len(expected), counts
        outcomes = await self.outcomes(queue)
        assert outcomes.keys() == expected
        wrong = {job_id: found for job_id, found in outcomes.items() if found != Counter(completed=1)}
        assert not wrong
        locks = [key async for key in self._redis.scan_iter(match=self.key(queue, "*:lock"), count=5000)]
        assert not locks


async def eventually(ready: Callable[[], bool], what: str, within_s: float = 30) -> None:
    """Ask until the answer is yes; fail after a while that only a defect takes."""
    deadline = time.monotonic() + within_s
    while not ready():
        assert time.monotonic() < deadline, f"expected {what} within {within_s} s"
        await asyncio.sleep(0.01)
