"""Handlers in processes of their own: a crash or a kill fails one job, and a whole process tree can be ended."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, cast

from corral.errors import ConfigurationError, CorralError, ProcessDied, Unrecoverable
from corral.queue.definition import JobTypeSpec
from corral.queue.job import Job, Progress, ThreadJob

_PR_SET_PDEATHSIG = 1
#: Fields of a job that go to the child as they are.
_FIELDS = (
    "id", "job_type", "data", "attempt", "max_attempts", "crashes", "starts", "reported", "priority", "created_at",
    "user_id", "trace_context",
)  # fmt: skip


@dataclass(eq=False, slots=True)
class _Child:
    process: SpawnProcess
    connection: Connection


class ProcessRunner:
    """Runs one job type's handler in processes, each used for one job after another.

    Args:
        spec: Its handler must be importable by module and name; the child starts from nothing and imports it.
        size: Jobs at once.
    """

    def __init__(self, spec: JobTypeSpec, size: int) -> None:
        handler = spec.handler
        if handler is None or "<" in getattr(handler, "__qualname__", "<"):
            raise ConfigurationError(
                f"Handler {spec.name!r} can't run in a process of its own: define it at module level, so that the "
                "process can import it."
            )
        self._handler: Callable[..., Any] = handler
        self._spec = spec
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[_Child] = []
        self._all: set[_Child] = set()
        # One thread per job in flight, which does nothing but wait for its child.
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=f"corral-process-{spec.name}")

    async def run(self, job: Job[Any]) -> Any:
        """Run the handler on a job.

        Raises:
            ProcessDied: The process ended without an answer.
            Exception: What the handler raised, as itself when it can be carried over.
        """
        loop = asyncio.get_running_loop()
        child = self._idle.pop() if self._idle else await loop.run_in_executor(None, self._spawn)
        try:
            result = await loop.run_in_executor(self._threads, self._converse, child, job, loop)
        except asyncio.CancelledError:
            self._end(child)
            raise
        except ProcessDied:
            self._end(child)
            raise
        except BaseException:
            self._idle.append(child)
            raise
        self._idle.append(child)
        return result

    async def close(self) -> None:
        """End all processes."""
        for child in list(self._all):
            self._end(child)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _spawn(self) -> _Child:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_child_main, args=(theirs, self._handler), name=f"corral-{self._spec.name}", daemon=False
        )
        process.start()
        theirs.close()
        child = _Child(process, ours)
        self._all.add(child)
        return child

    def _converse(self, child: _Child, job: Job[Any], loop: asyncio.AbstractEventLoop) -> Any:
        """Send the job, pass on its news, return its result. In a thread: all of it blocks."""
        connection = child.connection
        reporter = job._reporter  # noqa: SLF001 - a runner acts for the job
        try:
            connection.send({name: getattr(job, name) for name in _FIELDS})
            while True:
                kind, value = connection.recv()
                if kind == "result":
                    return value
                if kind == "error":
                    raise _carried_error(value)
                answer: tuple[str, Any]
                try:
                    call = getattr(reporter, kind)
                    coroutine = call(value) if value is not None else call()
                    answer = ("ok", asyncio.run_coroutine_threadsafe(coroutine, loop).result())
                except CorralError as error:
                    answer = ("error", error)
                connection.send(answer)
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            child.process.join(timeout=2)
            raise ProcessDied(_how_it_died(child.process.exitcode)) from error

    def _end(self, child: _Child) -> None:
        """Kill a process with everything that it started."""
        self._all.discard(child)
        if child in self._idle:
            self._idle.remove(child)
        pid = child.process.pid
        if pid is not None:
            kill_tree(pid)
        threading.Thread(target=_reap, args=(child,), daemon=True).start()


def _reap(child: _Child) -> None:
    child.process.join(timeout=5)
    child.connection.close()


def kill_tree(pid: int) -> None:
    """SIGKILL a process, its group, and every descendant, also those that left the group."""
    found = descendants(pid)
    for each in (pid, *found):
        try:
            os.kill(each, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def descendants(pid: int) -> list[int]:
    """Processes below one, by ``/proc``; those whose parent has ended already belong to nobody and are not found."""
    children: dict[int, list[int]] = {}
    try:
        entries = [entry for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    except OSError:
        return []
    for entry in entries:
        try:
            # "pid (comm) state ppid ...": comm may hold spaces and parentheses.
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    queue = [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def _how_it_died(code: int | None) -> str:
    if code is None:
        return "The handler's process closed its connection and did not end."
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = {
            "SIGKILL": " (the kernel kills so when memory runs out)",
            "SIGSEGV": " (a crash in native code)",
        }.get(name, "")
        return f"The handler's process was ended by {name}{hint}."
    return f"The handler's process ended with code {code} before it gave a result."


def _carried_error(value: Mapping[str, Any]) -> BaseException:
    """The handler's error, as itself when it could be carried over, with the trace of the child as a note."""
    error: BaseException
    try:
        error = pickle.loads(value["pickled"]) if value["pickled"] else RuntimeError(value["text"])  # noqa: S301 - from our own child, which already runs the user's code
    except Exception:  # noqa: BLE001 - an exception's __reduce__ may do anything
        error = RuntimeError(value["text"])
    error.add_note(f"In the handler's process:\n{value['trace']}")
    return error


class _ChildReporter:
    """Passes a job's news to the parent and waits for its answer."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def _ask(self, kind: str, value: Any) -> Any:
        with self._lock:
            self._connection.send((kind, value))
            answer, result = self._connection.recv()
        if answer == "error":
            raise result
        return result

    async def progress(self, value: Progress) -> None:
        self._ask("progress", value)

    async def log(self, lines: list[str]) -> None:
        self._ask("log", lines)

    async def children_results(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._ask("children_results", None))

    async def children_failures(self) -> dict[str, str]:
        return cast("dict[str, str]", self._ask("children_failures", None))


def _child_main(connection: Connection, handler: Callable[..., Any]) -> None:
    """Serve jobs until the parent closes the connection."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        # A parent that is killed takes its children along, so that a job is not run on beside its next attempt.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    while True:
        try:
            values = connection.recv()
        except EOFError:
            return
        try:
            reporter = _ChildReporter(connection)
            connection.send(("result", _run_handler(handler, values, reporter)))
        except BaseException as error:  # noqa: BLE001 - all that a handler raises is told to the parent
            connection.send(("error", _carry(error)))


def _run_handler(handler: Callable[..., Any], values: dict[str, Any], reporter: _ChildReporter) -> Any:
    async def call() -> Any:
        result = handler(Job(**values, _reporter=reporter))
        return await result if asyncio.iscoroutine(result) else result

    if asyncio.iscoroutinefunction(handler) or asyncio.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004 - the method, not whether it can be called
        return asyncio.run(call())
    # A plain function's `progress_now` needs a loop that runs beside it.
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        return handler(ThreadJob(**values, _reporter=reporter, _loop=loop))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=2)


def _carry(error: BaseException) -> dict[str, Any]:
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)  # noqa: S301 - what we have just made: some exceptions pickle and can't be unpickled
    except Exception:  # noqa: BLE001 - whatever an exception's own __reduce__ raises
        pickled = b""
    if isinstance(error, SystemExit | KeyboardInterrupt):
        pickled = pickle.dumps(Unrecoverable(f"The handler called for its process to end ({type(error).__name__})."))
    return {
        "pickled": pickled,
        "text": f"{type(error).__name__}: {error}",
        "trace": "".join(traceback.format_exception(error)),
    }
