"""One peer's producer and worker, as processes that are commanded and listened to."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.queue.environments import Environment
from benchmarks.queue.registry import QUEUE

_TICKS = os.sysconf("SC_CLK_TCK")


class PeerFailed(Exception):
    """A peer's process failed or fell silent; the row says so and the run goes on."""


class Unsupported(Exception):
    """The peer has no such feature."""


class News:
    """What handlers tell, through a named pipe."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        # Opened for both directions: no end-of-file between two workers, no wait for the first.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.lines: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        rest = b""
        while not self._closed:
            if not select.select([self._fd], [], [], 0.2)[0]:
                continue
            *lines, rest = (rest + os.read(self._fd, 1 << 16)).split(b"\n")
            for line in lines:
                self.lines.put(json.loads(line))

    def next(self, timeout_s: float) -> dict[str, Any] | None:
        """The next line; None after ``timeout_s``."""
        try:
            return self.lines.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return None

    def clear(self) -> None:
        """Forget what an earlier worker said."""
        while self.next(0.001) is not None:
            pass

    def close(self) -> None:
        """Stop listening."""
        self._closed = True
        self._thread.join()
        os.close(self._fd)


def _group_stat(group: int) -> Iterator[list[str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group:
                yield fields


class Process:
    """A peer's adapter in one role, in a process group of its own."""

    def __init__(
        self,
        environment: Environment,
        role: str,
        *,
        redis_url: str,
        news: Path,
        concurrency: int,
        every: int,
        log: Path,
    ) -> None:
        config = {"redis_url": redis_url, "queue": QUEUE, "concurrency": concurrency, "every": every, "news": str(news)}
        if environment.packages is not None:
            config["packages"] = str(environment.packages)
        self._log = log
        peers = Path(__file__).parent / "peers"
        variables = os.environ | environment.variables | {"CORRAL_BENCH": json.dumps(config), "PYTHONUNBUFFERED": "1"}
        variables["PYTHONPATH"] = os.pathsep.join(filter(None, (environment.variables.get("PYTHONPATH"), str(peers))))
        self._process = subprocess.Popen(
            [*environment.command, role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if role == "producer" else log.open("ab"),
            stderr=log.open("ab"),
            env=variables,
            cwd=peers,
            start_new_session=True,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its id, which is its group's too."""
        return self._process.pid

    def command(self, *, timeout_s: float = 600, **command: Any) -> dict[str, Any]:
        """Send the producer one command and wait for its answer.

        Raises:
            Unsupported: The peer can't do it.
            PeerFailed: It failed, ended, or said nothing for ``timeout_s``.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], timeout_s)[0]:
            raise PeerFailed(f"no answer to {command['op']} in {timeout_s} s")
        line = self._process.stdout.readline()
        if not line:
            raise PeerFailed(f"ended: {self.log_tail()}")
        answer: dict[str, Any] = json.loads(line)
        if "unsupported" in answer:
            raise Unsupported(answer["unsupported"])
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def check(self) -> None:
        """Raise PeerFailed when it has ended."""
        if self._process.poll() is not None:
            raise PeerFailed(f"ended with {self._process.returncode}: {self.log_tail()}")

    def log_tail(self) -> str:
        """The last line that it wrote to standard error."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:200] if lines else "nothing said"

    def cpu_seconds(self) -> float:
        """Processor time of the whole group so far."""
        return sum(int(fields[11]) + int(fields[12]) for fields in _group_stat(self.pid)) / _TICKS

    def resident_bytes(self) -> int:
        """Resident memory of the whole group."""
        return sum(int(fields[21]) for fields in _group_stat(self.pid)) * os.sysconf("SC_PAGE_SIZE")

    def stop(self) -> None:
        """End it and all that it started: politely, then surely."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        for sig, wait_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 10)):
            if self._process.poll() is None:
                os.kill(self.pid, sig)
                try:
                    self._process.wait(wait_s)
                except subprocess.TimeoutExpired:
                    continue
        deadline = time.monotonic() + 2
        while any(_group_stat(self.pid)) and time.monotonic() < deadline:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                break
            time.sleep(0.02)
        if self._process.stdout is not None:
            self._process.stdout.close()


class Stage:
    """Where one peer performs: its environment, the server, the pipe."""

    def __init__(self, environment: Environment, redis_url: str, folder: Path, every: int) -> None:
        self.environment = environment
        self.redis_url = redis_url
        self.every = every
        self._folder = folder
        self.news_path = folder / "news"
        self.news = News(self.news_path)

    @contextmanager
    def process(self, role: str, concurrency: int = 5) -> Iterator[Process]:
        """A producer or a worker for the time of the block."""
        process = Process(
            self.environment,
            role,
            redis_url=self.redis_url,
            news=self.news_path,
            concurrency=concurrency,
            every=self.every,
            log=self._folder / f"{role}.log",
        )
        try:
            yield process
        finally:
            process.stop()


@contextmanager
def stage(environment: Environment, redis_url: str, every: int) -> Iterator[Stage]:
    """Set the stage and clear it again."""
    with tempfile.TemporaryDirectory(prefix="corral-bench-") as folder:
        made = Stage(environment, redis_url, Path(folder), every)
        try:
            yield made
        finally:
            made.news.close()
