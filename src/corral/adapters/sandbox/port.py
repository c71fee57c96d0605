"""The sandbox port: one untrusted command, run within bounds, and how it ended."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path, PurePosixPath

WORKSPACE = PurePosixPath("/workspace")
"""Where the worktree is seen by the program, whatever its path outside."""
SUPPORT = PurePosixPath("/corral")
"""Where Corral's own files (reporters, the folder for reports) are seen by the program."""
HOME = PurePosixPath("/tmp/home")  # noqa: S108 - a path inside the sandbox, on its private tmpfs
"""The program's home folder, on the private ``/tmp``."""

MIB = 1024 * 1024


class RunEnding(StrEnum):
    """How the sandboxed process tree ended."""

    EXITED = "exited"
    SIGNALLED = "signalled"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"
    TOO_MANY_PROCESSES = "too_many_processes"
    OUTPUT_LIMIT = "output_limit"
    DISK_FULL = "disk_full"
    CPU_LIMIT = "cpu_limit"
    CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxLimits:
    """What one run may use, of the whole process tree unless it says otherwise."""

    memory_bytes: int = 2048 * MIB
    #: Processes and threads together, as the kernel counts them.
    processes: int = 512
    cpu: timedelta = timedelta(minutes=10)
    #: The largest single file.
    file_size_bytes: int = 512 * MIB
    #: What is written to the worktree and the report folder.
    disk_bytes: int = 1024 * MIB
    #: How many files and folders may be created there.
    disk_entries: int = 200_000
    #: The private ``/tmp``, which holds the home folder; ``/dev/shm`` gets a quarter of it. Both count as memory.
    tmp_bytes: int = 256 * MIB
    output_bytes: int = 16 * MIB
    #: Per process.
    open_files: int = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Mount:
    """A host file or folder that the program sees."""

    source: Path
    target: PurePosixPath
    writable: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxRequest:
    """One command to run."""

    #: Program and arguments; looked up in the sandbox's own ``PATH``.
    command: tuple[str, ...]
    #: Seen, writable, at ``/workspace``, which is also the working directory.
    worktree: Path
    timeout: timedelta
    #: Exactly these variables and the sandbox's own (``PATH``, ``HOME``, ``TMPDIR``, ``LANG``, ``CI``), nothing else.
    env: Mapping[str, str] = field(default_factory=dict)
    limits: SandboxLimits = SandboxLimits()
    #: Further folders and files.
    mounts: tuple[Mount, ...] = ()
    #: Let the program reach the hosts of the sandbox's allow-list, through its proxy. Otherwise: no network at all.
    network: bool = False
    #: The container backends' image; None takes their default. Others ignore it.
    image: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SandboxResult:
    """How the run ended."""

    ending: RunEnding
    #: None when a signal or a bound ended it.
    exit_code: int | None
    signal: int | None
    seconds: float
    output_bytes: int
    #: One line for people: which bound was passed, or "".
    detail: str = ""
    #: Where it was measured.
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reaped:
    """What a sandbox found of dead workers and removed."""

    runs: int = 0
    cgroups: int = 0
    containers: int = 0
    processes: int = 0


OutputSink = Callable[[bytes], None]
"""Gets the program's output, both streams in the order of arrival, in pieces of any size. Must not block."""


class Sandbox(ABC):
    """Runs untrusted commands.

    One instance serves all jobs of a worker, several at once.
    """

    #: As in ``Settings.sandbox``.
    name: str

    @abstractmethod
    async def check(self) -> str:
        """Make sure that this sandbox works on this machine.

        Returns:
            The backend's version.

        Raises:
            SandboxUnavailable: It doesn't; the message says why and how to mend it.
        """

    @abstractmethod
    async def run(self, request: SandboxRequest, on_output: OutputSink) -> SandboxResult:
        """Run one command to its end; when this returns or raises, nothing of it runs or lies about any more.

        Args:
            request: What to run.
            on_output: Gets the output as it comes.

        Returns:
            How it ended. A program that fails, or is ended by a bound, is a result and no error.

        Raises:
            SandboxUnavailable: This sandbox does not work on this machine.
            SandboxFailed: The sandbox could not be set up this time; not the program's doing.
            asyncio.CancelledError: The caller was cancelled; the whole process tree is dead.
        """

    @abstractmethod
    async def reap(self) -> Reaped:
        """Remove what workers that died without cleaning up left behind; safe beside living workers."""

    def bounds(self) -> Mapping[str, str]:
        """What holds each bound here: bound → ``cgroup``, ``rlimit``, ``watcher``, ``tmpfs``, ``reader``, ``none``."""
        return {}

    async def close(self) -> None:  # noqa: B027 - a sandbox that keeps nothing has nothing to close
        """Let go of what the instance keeps (its lock among the workers of this machine, its proxy)."""


def base_environment(path: str) -> dict[str, str]:
    """Return the variables that every program gets, before the request's own.

    Args:
        path: Where the toolchain's programs are.
    """
    return {
        # What a set-up command installed comes first.
        "PATH": f"{WORKSPACE}/.venv/bin:{WORKSPACE}/node_modules/.bin:{HOME}/.local/bin:{path}",
        "HOME": str(HOME),
        "TMPDIR": "/tmp",  # noqa: S108 - inside the sandbox
        "LANG": "C.UTF-8",
        "USER": "corral",
        "LOGNAME": "corral",
        "SHELL": "/bin/sh",
        "CI": "true",
    }
