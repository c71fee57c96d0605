"""A real Valkey of a test's own."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

from corral.errors import StoreUnavailable
from corral.wire.embedded import server_binary

_START_S = 15.0
_STOP_S = 10.0


class EmbeddedServer:
    """A private Valkey on a free port of the loopback; starts in some 30 ms and leaves nothing behind.

    Its jobs outlive :meth:`stop` and :meth:`kill` (append-only file on) until :meth:`close`::

        with EmbeddedServer() as server:
            corral = Corral(redis_url=server.url)

    All methods block shortly; in a test of a busy event loop call them by ``asyncio.to_thread``.

    Args:
        options: Further lines of the configuration, for example ``{"maxmemory-policy": "allkeys-lru"}``.
        port: Bind this port; by default a free one, kept over restarts.
        binary: Another server program; by default the one of the ``embedded`` extra. A Redis of 6.2 or newer will do.
        arguments: Arguments after the configuration, for example ``["--sentinel"]``.

    Raises:
        ExtraMissing: The ``embedded`` extra is not installed.
    """

    def __init__(
        self,
        *,
        options: Mapping[str, str] | None = None,
        port: int | None = None,
        binary: Path | None = None,
        arguments: tuple[str, ...] = (),
    ) -> None:
        self._binary = binary or server_binary()
        self._arguments = arguments
        self.options = dict(options or {})
        self.folder = Path(tempfile.mkdtemp(prefix="corral-test-server-"))
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._finish = weakref.finalize(self, _clean_up, self.folder, self._processes)

    @property
    def url(self) -> str:
        """``redis://`` address, with the password when ``requirepass`` is among the options."""
        password = self.options.get("requirepass")
        return f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """What the server has logged so far."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")
        return ""

    def start(self) -> Self:
        """Start it, and return when it answers; it loads what an earlier run has written.

        Raises:
            StoreUnavailable: It doesn't start; says its last words.
        """
        if self.running:
            return self
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            **self.options,
        }
        if "--sentinel" in self._arguments:
            for name in ("appendonly", "appendfsync", "save", "maxmemory-policy"):
                settings.pop(name)
        configuration = self.folder / "server.conf"
        if not configuration.exists() or "--sentinel" not in self._arguments:  # a sentinel writes its own state there
            configuration.write_text("".join(f"{name} {value}\n" for name, value in settings.items()), encoding="utf-8")
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [os.fspath(self._binary), os.fspath(configuration), *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={"PATH": os.defpath, "LC_ALL": "C"},
            )
        self._processes.append(self._process)
        self._wait_ready()
        return self

    def stop(self) -> None:
        """End it in good order (SIGTERM)."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL), as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it in good order and start it again on the same port with the same data."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop it from running (SIGSTOP), without closing its connections."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def command(self, *words: str, timeout: timedelta = timedelta(seconds=5)) -> str:
        """Send one command; the raw reply, for what a test needs beside its client.

        Raises:
            OSError: It doesn't answer.
        """
        request = b""
        password = self.options.get("requirepass")
        for sent in (("AUTH", password), words) if password else (words,):
            request += b"*%d\r\n" % len(sent)
            request += b"".join(b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in sent)
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout.total_seconds()) as connection:
            connection.sendall(request)
            reply = connection.recv(65_536)
        return reply.decode(errors="replace")

    def close(self) -> None:
        """Kill it and remove its files."""
        self._finish()
        self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        if number is not signal.SIGKILL:
            process.send_signal(signal.SIGCONT)  # a frozen one takes no SIGTERM
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._processes.remove(process)

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            if not self.running:
                last = self.log.strip().splitlines()[-1:] or ["it logged nothing"]
                raise StoreUnavailable(f"the test server did not start: {last[0]}")
            with contextlib.suppress(OSError):
                if self.command("PING").endswith(("+PONG\r\n", "-NOAUTH Authentication required.\r\n")):
                    return
            time.sleep(0.005)
        self.kill()
        raise StoreUnavailable(f"the test server did not answer within {_START_S:.0f} s")


def free_port() -> int:
    """A port of the loopback that is free now, and likely to be so after a restart.

    Below the range that the system takes for outgoing connections, any of which might be there first when a killed
    server comes back; and low enough for a Cluster's second port, 10,000 further up.
    """
    while True:
        port = random.randrange(12_000, 22_000)  # noqa: S311 - not a secret
        with socket.socket() as first, socket.socket() as second, contextlib.suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 10_000))
            return port


def _clean_up(folder: Path, processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.kill()
        process.wait()
    processes.clear()
    shutil.rmtree(folder, ignore_errors=True)
