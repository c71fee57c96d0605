"""What every peer's handler does, and all it does: count, and tell the harness when.

Runs inside each peer's own environment, so it uses the standard library only. News go to a named pipe, as lines of
JSON shorter than PIPE_BUF (so that several processes may write): ``{"n", "t", "pid"}`` every ``every`` jobs and once
a second, and ``{"late"}``, in seconds, for a job that carries the time at which it was due. Times are
CLOCK_MONOTONIC, which all processes of one machine share, Node's included.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import Any

CONFIG: dict[str, Any] = json.loads(os.environ["CORRAL_BENCH"])
REDIS_URL: str = CONFIG["redis_url"]
QUEUE: str = CONFIG["queue"]
CONCURRENCY: int = CONFIG["concurrency"]
_EVERY: int = CONFIG["every"]

_lock = threading.Lock()
_count = 0
_told = time.monotonic()
_pipe: int | None = None


def _tell(line: str) -> None:
    global _pipe  # noqa: PLW0603 - opened on first use, after any fork
    if _pipe is None:
        _pipe = os.open(CONFIG["news"], os.O_WRONLY)
    os.write(_pipe, line.encode())


def job(n: int, due: float) -> dict[str, int]:
    """Count one job; returns its result."""
    global _count, _told  # noqa: PLW0603 - one tally per process
    now = time.monotonic()
    with _lock:
        _count += 1
        count = _count
    if due:
        _tell(f'{{"late":{now - due:.6f}}}\n')
    elif count % _EVERY == 0 or now - _told >= 1.0:
        _told = now
        _tell(f'{{"n":{count},"t":{now:.6f},"pid":{os.getpid()}}}\n')
    return {"n": n}
