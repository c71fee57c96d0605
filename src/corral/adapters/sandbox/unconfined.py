"""The ``none`` backend: runs commands as plain processes of the worker's user. It contains nothing.

For machines on which only trusted code runs. It keeps a promise or two all the same: the time-out, the bounds on output
and disk, a clean environment, and that nothing keeps running afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
from pathlib import Path

from corral.adapters.processes import start_group
from corral.adapters.sandbox.bounds import BoundsWatcher, tree_of
from corral.adapters.sandbox.orphans import RunRecord, RunRegistry
from corral.adapters.sandbox.port import (
    HOME,
    SUPPORT,
    WORKSPACE,
    OutputSink,
    Reaped,
    RunEnding,
    Sandbox,
    SandboxRequest,
    SandboxResult,
    base_environment,
)
from corral.adapters.sandbox.supervision import Supervision, open_pipe, signal_said
from corral.errors import SandboxFailed

_LOG = logging.getLogger(__name__)
_MARK = "CORRAL_RUN"
_WARNING = "this code is NOT contained: CORRAL_SANDBOX is 'none', so it can do whatever this worker's user can"


class UnconfinedSandbox(Sandbox):
    """Runs commands without any sandbox."""

    name = "none"

    def __init__(self, *, home: Path) -> None:
        """Use ``home`` for scratch files; warns at once."""
        self._registry = RunRegistry(home)
        _LOG.warning(_WARNING)

    async def check(self) -> str:
        """See ``Sandbox.check``; there is nothing to check."""
        return "0"

    def bounds(self) -> dict[str, str]:
        """See ``Sandbox.bounds``."""
        watched = dict.fromkeys(("memory", "processes", "cpu", "disk"), "watcher")
        return {
            **watched,
            "file size": "none",
            "open files": "none",
            "tmp": "none",
            "output": "reader",
            "time": "timer",
        }

    async def run(self, request: SandboxRequest, on_output: OutputSink) -> SandboxResult:
        """See ``Sandbox.run``. The paths of the sandbox in command and environment are replaced by real ones."""
        on_output(f"[{_WARNING}]\n".encode())
        record = await asyncio.to_thread(self._registry.open)
        try:
            return await self._run(request, record, on_output)
        except OSError as error:
            raise SandboxFailed(
                f"the command could not be started: {error}", service=self.name, operation="run", retryable=True
            ) from error
        finally:
            await asyncio.shield(asyncio.to_thread(record.remove))

    async def _run(self, request: SandboxRequest, record: RunRecord, on_output: OutputSink) -> SandboxResult:
        places = _places(request, record.folder)

        def real(text: str) -> str:
            for inside, outside in places:
                text = text.replace(inside, outside)
            return text

        mark = secrets.token_hex(16)
        path = os.environ.get("PATH", os.defpath)
        environment = {**base_environment(path), "TMPDIR": str(record.folder), **request.env}
        environment = {name: real(value) for name, value in environment.items()} | {_MARK: mark}
        async with open_pipe() as (output, output_end):
            process = await start_group(
                *[real(word) for word in request.command],
                stdin=asyncio.subprocess.DEVNULL, stdout=output_end.number, stderr=output_end.number,
                env=environment, cwd=request.worktree, end=lambda started: _kill_all(started.pid, mark),
            )  # fmt: skip
            output_end.close()
            record.note(process_group=process.pid)

            def kill() -> None:
                _kill_all(process.pid, mark)

            run = Supervision(
                timeout=request.timeout, output_bytes=request.limits.output_bytes, kill=kill, sink=on_output
            )
            writable = [request.worktree, *(mount.source for mount in request.mounts if mount.writable)]
            watcher = BoundsWatcher(
                root=process.pid, cgroup=None, limits=request.limits, folders=writable, private_tmp=False
            )
            try:
                await run.follow(process, output, watch=watcher.watch)
            finally:
                kill()  # what the command left running
        code = process.returncode
        ending, number = run.ending, None
        if ending is None:
            ending = RunEnding.EXITED
            if code is not None and code < 0:
                ending, number, code = RunEnding.SIGNALLED, -code, None
            elif (number := signal_said(code)) is not None:
                ending, code = RunEnding.SIGNALLED, None
        else:
            code = None
        return SandboxResult(
            ending=ending,
            exit_code=code,
            signal=number,
            seconds=run.seconds,
            output_bytes=run.output_bytes,
            detail=run.detail or (f"ended by {signal.Signals(number).name}" if number else ""),
            cpu_seconds=watcher.cpu_seconds,
        )

    async def reap(self) -> Reaped:
        """See ``Sandbox.reap``."""
        return await asyncio.to_thread(self._registry.reap)

    async def close(self) -> None:
        """See ``Sandbox.close``."""
        await asyncio.to_thread(self._registry.close)


def _places(request: SandboxRequest, folder: Path) -> list[tuple[str, str]]:
    """Pair paths inside with real ones, the longest first; makes links for mounts that others lie below."""
    places = {str(WORKSPACE): str(request.worktree), str(HOME): str(folder / "home")}
    (folder / "home").mkdir()
    for mount in request.mounts:
        if mount.target.is_relative_to(WORKSPACE):
            link = request.worktree / mount.target.relative_to(WORKSPACE)
        elif mount.target.is_relative_to(HOME):
            link = folder / "home" / mount.target.relative_to(HOME)
        else:
            link = folder / "support" / mount.target.relative_to(SUPPORT)
            places[str(mount.target)] = str(link)
        if mount.target == HOME:
            places[str(HOME)] = str(mount.source)
            continue
        link.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(link):
            link.symlink_to(mount.source)
    return sorted(places.items(), key=lambda place: len(place[0]), reverse=True)


def _kill_all(leader: int, mark: str) -> None:
    """Kill the command's session, its descendants, and whoever still carries its mark (daemons that left both)."""
    for pid in tree_of(leader):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)
    wanted = f"{_MARK}={mark}".encode()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if wanted in Path(entry.path, "environ").read_bytes():
                    os.kill(int(entry.name), signal.SIGKILL)
