"""The embedded model's server: a program of its own, so that a crash in native code takes down no worker.

Started by ``corral.adapters.llm.local_model`` with its orders as JSON on standard input. It serves the OpenAI protocol
on loopback behind a random key, and ends by itself when no process has used it for a while: users hold a shared lock on
one file, which the kernel gives back however they die.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

_LOOK_EVERY_S = 1.0


def main() -> None:
    """Load the model, say where it listens, serve until nobody is left."""
    orders: dict[str, Any] = json.loads(sys.stdin.readline())
    ready = _detach()
    folder = Path(orders["folder"])
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C in one worker's terminal is not for the others' server
    server = _serve(orders)
    state = {
        "pid": os.getpid(),
        "address": server.listening_address,
        "key": orders["key"],
        "model": orders["model"],
    }
    _write_private(folder / "state.json", json.dumps(state))
    os.write(ready, b"ready\n")
    os.close(ready)
    _wait_until_unused(folder, stopping, linger_s=float(orders["linger_s"]))
    # Native threads are not joined: they may be in the middle of an answer that nobody waits for.
    os._exit(0)


def _detach() -> int:
    """Go on in a child that belongs to nobody; this process stays until that one is ready, then ends with its success.

    The server outlives the worker that happened to start it, so it must not be that worker's child: nobody would
    collect it.
    """
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        said = os.read(reading, 6)
        sys.stdout.write(said.decode())
        sys.stdout.flush()
        os._exit(0 if said else 1)
    os.close(reading)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    return writing


def _serve(orders: dict[str, Any]) -> Any:
    # The extra is only needed in this process; it has no type information.
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = orders["model"]
    params.model_alias = {"local"}  # what answers say they came from; the path is nobody's business
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [orders["key"]]
    params.n_ctx = int(orders["context_tokens"])
    params.n_parallel = 1
    params.cpuparams.n_threads = int(orders["threads"])
    params.cpuparams_batch.n_threads = int(orders["threads"])
    params.n_threads_http = 4
    params.cache_ram_mib = 256
    params.warmup = False
    params.ui = False
    return xllamacpp.Server(params)


def _wait_until_unused(folder: Path, stopping: threading.Event, *, linger_s: float) -> None:
    users = os.open(folder / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
    start = os.open(folder / "start.lock", os.O_RDWR | os.O_CREAT, 0o600)
    unused_since: float | None = None
    while True:
        asked = stopping.wait(_LOOK_EVERY_S)
        if not asked and not _lock(users):
            unused_since = None
            continue
        now = time.monotonic()
        unused_since = now if unused_since is None else unused_since
        if not asked and now - unused_since < linger_s:
            fcntl.flock(users, fcntl.LOCK_UN)
            continue
        # Both locks are kept until the process is gone: whoever comes now waits, then finds no state and starts anew.
        if asked or _lock(start):
            (folder / "state.json").unlink(missing_ok=True)
            return
        fcntl.flock(users, fcntl.LOCK_UN)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_private(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as out:
        out.write(text)
    fresh.replace(path)


if __name__ == "__main__":
    main()
