"""The container backends: Docker's or Podman's command line, a container for each run.

Only the command line is used: the worker needs no engine's socket in its own address space, and the same code serves
both. What the engine's own system-call filter and masks give is left as it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import io
import os
import resource
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Literal

from corral.adapters.processes import end_group, start_group
from corral.adapters.sandbox.bounds import BoundsWatcher
from corral.adapters.sandbox.cgroups import Cgroup
from corral.adapters.sandbox.orphans import RunRecord, RunRegistry
from corral.adapters.sandbox.port import (
    HOME,
    MIB,
    SUPPORT,
    WORKSPACE,
    Mount,
    OutputSink,
    Reaped,
    RunEnding,
    Sandbox,
    SandboxRequest,
    SandboxResult,
    base_environment,
)
from corral.adapters.sandbox.proxy import LISTEN_INSIDE, AllowList, serve_run
from corral.adapters.sandbox.proxy import environment as proxy_environment
from corral.adapters.sandbox.removal import remove_tree
from corral.adapters.sandbox.supervision import Supervision, open_pipe, signal_said
from corral.errors import SandboxFailed, SandboxUnavailable

_ENGINE_FAILED = 125
_IMAGE_FAILED = (126, 127)  # the image has no such program, or can't start it
_NPROC = 16_384
_NEVER = "0001-01-01"
_IDENTITY = "container"  # in a run's scratch folder
_PERIOD_S = 0.02
_COMMAND_S = 60.0
_SOCKET = SUPPORT / "proxy"


class ContainerSandbox(Sandbox):
    """Runs commands in containers."""

    def __init__(
        self,
        engine: Literal["docker", "podman"],
        *,
        home: Path,
        image: str | None,
        setup_hosts: AllowList | None = None,
        program: Path | None = None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            engine: Whose command line.
            home: A folder for scratch files, shared by the workers of this machine.
            image: For requests that name none. It must be there already: nothing is pulled while a job waits.
            setup_hosts: What runs with ``network`` may reach; None is nothing.
            program: The command line's program; None finds it.
        """
        self.name = engine
        self._image = image
        self._setup_hosts = setup_hosts or AllowList()
        self._registry = RunRegistry(home)
        self._program = program
        self._version: str | None = None
        # Labels tell this data folder's containers from those of other installations on the same engine.
        self._home_label = hashlib.sha256(str(home.absolute()).encode()).hexdigest()[:16]

    async def check(self) -> str:
        """See ``Sandbox.check``; the answer is kept after the first success."""
        if self._version is None:
            found = self._program or shutil.which(self.name)
            if found is None:
                raise SandboxUnavailable(
                    f"no {self.name} program: install it, or set CORRAL_SANDBOX to bubblewrap or another engine"
                )
            self._program = Path(found)
            code, said = await self._engine("version", "--format", "{{.Server.Version}}")
            if code != 0 and self.name == "podman":
                code, said = await self._engine("version", "--format", "{{.Client.Version}}")
            if code != 0:
                raise SandboxUnavailable(f"{self.name} does not answer: {said[-300:]}")
            self._version = said.splitlines()[-1].strip()
        return self._version

    def bounds(self) -> Mapping[str, str]:
        """See ``Sandbox.bounds``."""
        return {
            "memory": "cgroup", "processes": "cgroup", "cpu": "cgroup", "file size": "rlimit",
            "open files": "rlimit", "disk": "watcher", "tmp": "tmpfs", "output": "reader", "time": "timer",
        }  # fmt: skip

    def command_line(
        self, request: SandboxRequest, record: RunRecord, *, image: str, user: tuple[int, int] | None = None
    ) -> list[str]:
        """Return the engine's arguments for one run.

        Args:
            request: The run.
            record: Its scratch folder (holds the file of variables) and its name.
            image: The image.
            user: Uid and gid on the host that own the worktree; None takes this process's.
        """
        uid, gid = user or (os.getuid(), os.getgid())
        limits = request.limits
        line = [
            "run", "--name", record.name, "--label", f"corral.home={self._home_label}",
            "--label", f"corral.worker={self._registry.token}", "--pull", "never", "--network", "none",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "--ipc", "private",
            "--hostname", "sandbox", "--user", f"{uid}:{gid}", "--workdir", str(WORKSPACE),
            "--memory", str(limits.memory_bytes), "--memory-swap", str(limits.memory_bytes),
            "--pids-limit", str(limits.processes), "--shm-size", str(max(limits.tmp_bytes // 4, MIB)),
            "--ulimit", f"fsize={limits.file_size_bytes}", "--ulimit", f"nofile={limits.open_files}",
            "--ulimit", f"cpu={max(1, int(limits.cpu.total_seconds()))}", "--ulimit", "core=0",
            "--tmpfs", f"/tmp:rw,exec,nosuid,nodev,mode=1777,size={limits.tmp_bytes}",  # noqa: S108 - inside
            "--log-driver", "none", "--entrypoint", "", "--env-file", str(record.folder / "environment"),
            "--cidfile", str(record.folder / _IDENTITY),
        ]  # fmt: skip
        if self.name == "podman":
            # Bind mounts are not relabelled for SELinux: that would change the host's files.
            line += ["--security-opt", "label=disable"]
            # Podman would raise it, which needs a privilege that a worker may lack. The cgroup holds the bound.
            hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
            bound = _NPROC if hard == resource.RLIM_INFINITY else min(hard, _NPROC)
            line += ["--ulimit", f"nproc={bound}:{bound}"]
            if uid != 0:
                line += ["--userns", "keep-id"]
        mounts = [Mount(source=request.worktree, target=WORKSPACE, writable=True), *request.mounts]
        if not any(mount.target == HOME for mount in mounts):
            (record.folder / "home").mkdir(exist_ok=True)
            mounts.append(Mount(source=record.folder / "home", target=HOME, writable=True))
        git = request.worktree / ".git"
        if git.exists():
            empty = record.folder / ("no-git" if git.is_dir() else "no-git-file")
            empty.mkdir(exist_ok=True) if git.is_dir() else empty.touch()
            mounts.append(Mount(source=empty, target=WORKSPACE / ".git"))
        for mount in sorted(mounts, key=lambda mount: mount.target):
            line += ["--mount", _mount_option(mount)]
        command = request.command
        if request.network:
            line += ["--mount", _mount_option(Mount(source=record.folder / "proxy", target=_SOCKET))]
            command = ("python3", "-c", LISTEN_INSIDE, str(_SOCKET / "socket"), *command)
        return [*line, image, *command]

    async def run(self, request: SandboxRequest, on_output: OutputSink) -> SandboxResult:
        """See ``Sandbox.run``."""
        await self.check()
        image = request.image or self._image
        if image is None:
            raise SandboxUnavailable(f"{self.name} needs an image: set CORRAL_SANDBOX_IMAGE")
        record = await asyncio.to_thread(self._registry.open)
        had_git = os.path.lexists(request.worktree / ".git")  # noqa: ASYNC240 - one look
        try:
            (record.folder / "environment").write_text(_environment_file(self.name, request))
            async with self._way_out(request, record, on_output):
                return await self._follow(request, record, image, on_output)
        except OSError as error:
            raise SandboxFailed(
                f"the container could not be started: {error}", service=self.name, operation="run", retryable=True
            ) from error
        finally:
            await asyncio.shield(self._clean_up(request.worktree, record, had_git=had_git))

    async def _clean_up(self, worktree: Path, record: RunRecord, *, had_git: bool) -> None:
        await self._remove(record.name)
        if not had_git:
            await asyncio.to_thread(remove_tree, worktree / ".git")
        await asyncio.to_thread(record.remove)

    @contextlib.asynccontextmanager
    async def _way_out(self, request: SandboxRequest, record: RunRecord, on_output: OutputSink) -> AsyncIterator[None]:
        if not request.network:
            yield
            return
        folder = record.folder / "proxy"
        folder.mkdir()
        meeting = socket.socket(socket.AF_UNIX)
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By descriptor: a socket's path has 107 bytes at most (unix(7)), a data folder's may have more.
            meeting.bind(f"/proc/self/fd/{place}/socket")
        finally:
            os.close(place)
        (folder / "socket").chmod(0o666)
        meeting.listen(1)
        meeting.setblocking(False)

        async def serve() -> None:
            channel, _ = await asyncio.get_running_loop().sock_accept(meeting)
            with channel:
                await serve_run(channel, self._setup_hosts, on_output)

        serving = asyncio.create_task(serve())
        try:
            yield
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            meeting.close()

    async def _follow(
        self, request: SandboxRequest, record: RunRecord, image: str, on_output: OutputSink
    ) -> SandboxResult:
        assert self._program is not None  # noqa: S101 - set by check
        said = bytearray()

        def sink(chunk: bytes) -> None:
            if len(said) < 4096:
                said.extend(chunk)
            on_output(chunk)

        async with open_pipe() as (output, output_end):
            process = await start_group(
                self._program, *self.command_line(request, record, image=image),
                stdin=asyncio.subprocess.DEVNULL, stdout=output_end.number, stderr=output_end.number,
                cwd=record.folder,  # Podman's conmon leaves a file named "oom" where it was started
            )  # fmt: skip
            output_end.close()

            def kill() -> None:
                # Ends only the command line; ``rm --force`` ends the container, right afterwards.
                with contextlib.suppress(ProcessLookupError):
                    process.kill()

            run = Supervision(timeout=request.timeout, output_bytes=request.limits.output_bytes, kill=kill, sink=sink)
            watcher: BoundsWatcher | None = None

            async def watch(run: Supervision) -> None:
                nonlocal watcher
                watcher = await self._watcher(request, record)
                await watcher.watch(run)

            try:
                await run.follow(process, output, watch=watch)
            finally:
                if watcher is not None:
                    watcher.close()
        result = await self._result(run, record, process.returncode, request, said.decode(errors="replace"))
        return replace(result, cpu_seconds=watcher.cpu_seconds if watcher else None)

    async def _watcher(self, request: SandboxRequest, record: RunRecord) -> BoundsWatcher:
        """Wait until the container runs, and watch it: by its cgroup's counters, where they are seen from here."""
        # The engine writes the id before it starts the program, whose group may be gone soon after: what passes a
        # bound at once is missed by whoever looks for it late. Until there is an id, asking the engine is in vain.
        container, pid = "", 0
        while pid == 0:
            await asyncio.sleep(_PERIOD_S)
            container = container or _text_of(record.folder / _IDENTITY)
            if container:
                code, said = await self._engine("inspect", "--format", "{{.State.Pid}}", container)
                pid = int(said) if code == 0 and said.strip().isdigit() else 0
        writable = [request.worktree, *(mount.source for mount in request.mounts if mount.writable)]
        return BoundsWatcher(
            root=pid, cgroup=await asyncio.to_thread(Cgroup.of_container, pid, container), limits=request.limits,
            folders=writable, private_tmp=False,
        )  # fmt: skip

    async def _result(
        self,
        run: Supervision,
        record: RunRecord,
        code: int | None,
        request: SandboxRequest,
        said: str,
    ) -> SandboxResult:
        ending, detail, number = run.ending, run.detail, None
        if ending is not None:
            code = None
        else:
            ending = RunEnding.EXITED
            _, state = await self._engine(
                "inspect", "--format", "{{.State.OOMKilled}} {{.State.StartedAt}}", record.name
            )
            killed, _, started = state.strip().partition(" ")
            if code == _ENGINE_FAILED or _NEVER in started or not started:
                raise SandboxFailed(
                    f"{self.name} could not run the container: {said.strip()[-500:]}",
                    service=self.name, operation="run", retryable=code not in _IMAGE_FAILED,
                )  # fmt: skip
            if killed == "true":
                ending, code = RunEnding.OUT_OF_MEMORY, None
                detail = f"used more than {request.limits.memory_bytes // MIB} MiB of memory"
            elif (number := signal_said(code)) is not None:
                ending, code = RunEnding.SIGNALLED, None
                detail = f"ended by {signal.Signals(number).name}"
        return SandboxResult(
            ending=ending,
            exit_code=code,
            signal=number,
            seconds=run.seconds,
            output_bytes=run.output_bytes,
            detail=detail,
        )

    async def reap(self) -> Reaped:
        """See ``Sandbox.reap``."""
        await self.check()
        removed = 0
        form = '{{.ID}} {{.Label "corral.worker"}}'
        code, said = await self._engine(
            "ps", "--all", "--filter", f"label=corral.home={self._home_label}", "--format", form
        )
        for line in said.splitlines() if code == 0 else ():
            identity, _, worker = line.partition(" ")
            # Before the folders go: a worker without a folder counts as dead too.
            if worker and worker == PurePosixPath(worker).name and self._registry.is_dead(worker):
                await self._remove(identity)
                removed += 1
        files = await asyncio.to_thread(self._registry.reap)
        return Reaped(runs=files.runs, cgroups=files.cgroups, processes=files.processes, containers=removed)

    async def close(self) -> None:
        """See ``Sandbox.close``."""
        await asyncio.to_thread(self._registry.close)

    async def _remove(self, container: str) -> None:
        at_once = ["--time", "0"] if self.name == "podman" else []  # Docker kills without being told to
        await self._engine("rm", "--force", "--volumes", *at_once, container)

    async def _engine(self, *arguments: str) -> tuple[int, str]:
        """Run one of the engine's own commands; returns its exit code and what it said."""
        assert self._program is not None  # noqa: S101 - set by check
        process = await start_group(
            self._program, *arguments,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            async with asyncio.timeout(_COMMAND_S):
                said, _ = await process.communicate()
        except TimeoutError:
            return -1, f"no answer to {arguments[0]} within {_COMMAND_S:g} s"
        finally:
            await end_group(process)
        return process.returncode or 0, said.decode(errors="replace")


def _text_of(path: Path) -> str:
    """Read a small file that may not be there yet."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def _mount_option(mount: Mount) -> str:
    """Write a mount as the engines read it: a line of CSV, so that any path goes through."""
    fields = ["type=bind", f"source={mount.source}", f"target={mount.target}"]
    if not mount.writable:
        fields.append("readonly")
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(fields)
    return text.getvalue()


def _environment_file(engine: str, request: SandboxRequest) -> str:
    """Write variables as ``--env-file`` reads them: so no value is seen in a process list, nor acts on the engine.

    ``PATH`` is the image's own.
    """
    own = {name: value for name, value in base_environment("").items() if name != "PATH"}
    lines = []
    for name, value in {**own, **(proxy_environment() if request.network else {}), **request.env}.items():
        if "\n" in value or "\r" in value:
            raise SandboxFailed(
                f"the variable {name} holds a line break, which {engine} can't pass on",
                service=engine, operation="run", retryable=False, reason="variable_with_line_break",
            )  # fmt: skip
        lines.append(f"{name}={value}\n")
    return "".join(lines)
