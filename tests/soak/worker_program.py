"""A worker process for the tests that kill, freeze and cut off workers.

Its handlers write what they do to a file of their own, one JSON line each, by one system call: no outage and no SIGKILL
takes a line back. ``python -m tests.soak.worker_program CONFIG_JSON``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import sys
import time
from datetime import timedelta
from typing import Any

from corral import Corral, Job, Settings
from corral.queue import worker

CONFIG: dict[str, Any] = json.loads(sys.argv[1]) if __name__ == "__main__" else {}
LEDGER = os.open(CONFIG["ledger"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if CONFIG else -1


def note(event: str, job: Job[dict[str, Any]], **more: Any) -> None:
    """Write one line of the ledger."""
    line = {"event": event, "id": job.id, "type": job.job_type, "at": time.time(), "pid": os.getpid()}
    os.write(LEDGER, (json.dumps({**line, "attempt": job.attempt, "crashes": job.crashes, **more}) + "\n").encode())


async def sleeper(job: Job[dict[str, Any]]) -> dict[str, Any]:
    """Wait without blocking."""
    note("start", job)
    try:
        await asyncio.sleep(job.data.get("seconds", 0))
    except asyncio.CancelledError:
        note("cancelled", job)
        raise
    note("end", job)
    return {"by": os.getpid(), "id": job.id}


async def blocker(job: Job[dict[str, Any]]) -> dict[str, Any]:
    """Block the event loop: by sleeping, by computing in Python, or in C code that lets the GIL go."""
    note("start", job)
    seconds = job.data["seconds"]
    until = time.monotonic() + seconds
    kind = job.data["kind"]
    if kind == "sleep":
        time.sleep(seconds)  # noqa: ASYNC251 - that is the point
    while kind == "python" and time.monotonic() < until:
        sum(range(1000))
    while kind == "c" and time.monotonic() < until:
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 200_000)
    note("end", job)
    return {"by": os.getpid()}


async def flaky(job: Job[dict[str, Any]]) -> int:
    """Fail until the attempt that the payload names."""
    note("start", job)
    if job.attempt < job.data["succeed_at"]:
        raise RuntimeError(f"attempt {job.attempt} fails on purpose")
    note("end", job)
    return job.attempt


async def main() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = Settings(
        _env_file=None,
        redis_url=CONFIG["url"],
        prefix=CONFIG["prefix"],
        lease=timedelta(seconds=CONFIG.get("lease_s", 12)),
        shutdown_timeout=timedelta(seconds=CONFIG.get("shutdown_s", 30)),
    )
    if "block_s" in CONFIG:
        worker.BLOCK_S = CONFIG["block_s"]
    corral = Corral(settings=settings)
    limit = CONFIG.get("rate_limit")
    options: dict[str, Any] = {"max_crashes": CONFIG.get("max_crashes")}
    if limit:
        options["rate_limit"] = (limit[0], timedelta(milliseconds=limit[1]))
    for name in CONFIG["queues"]:
        handler = {"blocker": blocker, "flaky": flaky}.get(name.partition("-")[0], sleeper)
        corral.handler(name, **options)(handler)
    async with corral:
        workers = await corral.start_workers(CONFIG["queues"], concurrency=CONFIG.get("concurrency", 10))
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await workers.run_until_signalled()


if __name__ == "__main__":
    asyncio.run(main())
