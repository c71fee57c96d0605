"""Looks at what a running tree uses, for the bounds that the kernel does not hold or does not report by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from corral.adapters.sandbox.cgroups import Cgroup
from corral.adapters.sandbox.port import MIB, RunEnding, SandboxLimits
from corral.adapters.sandbox.supervision import Supervision

_PERIOD_S = 0.04
#: Where nothing in the kernel holds the number of processes, a fork bomb must be seen before it has grown.
_CROWD_PERIOD_S = 0.004
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
#: A walk over the written files costs as much as it costs; this bounds its share of the time.
_WALK_SHARE = 0.05
_WALK_PERIOD_S = 1.0


def tree_of(root: int, *, most: int = 1 << 22) -> list[int]:
    """Return ``root`` and its descendants, at most ``most`` of them.

    In a pid namespace this is everybody: orphans become children of the namespace's first process.
    """
    found: list[int] = []
    waiting = [root]
    while waiting and len(found) < most:
        pid = waiting.pop()
        found.append(pid)
        with contextlib.suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - plain names
                with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as file:  # noqa: PTH123
                    waiting.extend(int(child) for child in file.read().split())
    return found


def _usage(pids: Sequence[int]) -> tuple[int, int, float]:
    """Tasks, resident bytes, and CPU seconds (ended children included) of processes; shared pages count each time."""
    tasks = resident = 0
    cpu = 0.0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            # proc_pid_stat(5), numbered from 3 ("state") on: utime stime cutime cstime, num_threads, rss
            cpu += sum(int(value) for value in fields[11:15]) / _TICKS
            tasks += int(fields[17])
            resident += int(fields[21]) * _PAGE_BYTES
    return tasks, resident, cpu


def _proportional_bytes(pids: Sequence[int]) -> int:
    """Memory of processes, shared pages counted once in all; reading it walks their page tables."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Pss:", "SwapPss:")):
                    total += int(line.split()[1]) * 1024
    return total


class DiskMeter:
    """How much was written below some folders since it was made.

    Asking the file system for its free space is nearly free, so that is done each time, and the folders are walked
    only when it has shrunk by a good part of the limit, or a second has passed.
    """

    def __init__(self, folders: Sequence[Path], limits: SandboxLimits) -> None:
        """Start to measure."""
        self._folders = folders
        self._limits = limits
        # Time stamps come from the kernel's coarse clock, which runs up to a tick behind.
        self._since = time.time() - 0.02
        self._free = self._free_space()
        self._next_walk = time.monotonic() + _WALK_PERIOD_S

    def _free_space(self) -> tuple[int, int]:
        answer = os.statvfs(self._folders[0])
        return answer.f_bfree * answer.f_frsize, answer.f_ffree

    def wants_walk(self) -> bool:
        """Whether it is time to walk."""
        space, entries = self._free_space()
        return (
            time.monotonic() >= self._next_walk
            or self._free[0] - space > self._limits.disk_bytes // 2
            or self._free[1] - entries > self._limits.disk_entries // 2
        )

    def passed(self, pids: Sequence[int]) -> str | None:
        """Walk; returns which bound was passed, in words, or None. Blocks."""
        began = time.monotonic()
        self._free = self._free_space()
        device = os.stat(self._folders[0]).st_dev  # noqa: PTH116
        used, entries = _deleted_but_open(pids, device), 0
        for folder in self._folders:
            for status in _entries(folder):
                if status.st_ctime >= self._since:
                    entries += 1
                    used += status.st_blocks * 512
            if used > self._limits.disk_bytes or entries > self._limits.disk_entries:
                break
        took = time.monotonic() - began
        self._next_walk = time.monotonic() + max(_WALK_PERIOD_S, took / _WALK_SHARE)
        if used > self._limits.disk_bytes:
            return f"wrote more than {self._limits.disk_bytes // MIB} MiB to disk"
        if entries > self._limits.disk_entries:
            return f"made more than {self._limits.disk_entries} files"
        return None


def _entries(folder: Path) -> Iterator[os.stat_result]:
    waiting = [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        status = entry.stat(follow_symlinks=False)
                        yield status
                        if stat.S_ISDIR(status.st_mode):
                            waiting.append(entry.path)
        except OSError:
            continue


def _deleted_but_open(pids: Sequence[int], device: int) -> int:
    """Bytes of files that have no name any more but are kept by a process."""
    seen: dict[int, int] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
                with contextlib.suppress(OSError):
                    status = os.stat(f"/proc/{pid}/fd/{name}")  # noqa: PTH116
                    if stat.S_ISREG(status.st_mode) and status.st_nlink == 0 and status.st_dev == device:
                        seen[status.st_ino] = status.st_blocks * 512
    return sum(seen.values())


def _pid_namespace(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")  # noqa: PTH115 - a name, no path
    except OSError:
        return None


def _members(namespace: str, *, most: int) -> list[int]:
    """Return processes of a pid namespace, the youngest first, at most ``most``."""
    found: list[int] = []
    for pid in sorted((int(name) for name in os.listdir("/proc") if name.isdigit()), reverse=True):  # noqa: PTH208
        if len(found) >= most:
            break
        if _pid_namespace(pid) == namespace:
            found.append(pid)
    return found


def _tasks_of_the_machine() -> int:
    """How many processes and threads there are in all (proc_loadavg(5), fourth field)."""
    return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])


class BoundsWatcher:
    """Ends a run that passes a bound, and names the bound."""

    def __init__(
        self, *, root: int, cgroup: Cgroup | None, limits: SandboxLimits, folders: Sequence[Path], private_tmp: bool
    ) -> None:
        """Watch one tree.

        Args:
            root: Its first process, as the host numbers it.
            cgroup: Its group, when there is one.
            limits: The bounds.
            folders: Host folders that it may write to.
            private_tmp: Whether its ``/tmp`` is a bounded file system of its own.
        """
        self._root = root
        self._cgroup = cgroup
        self._limits = limits
        self._disk = DiskMeter(folders, limits)
        self._private_tmp = private_tmp
        self.cpu_seconds: float | None = None
        self._crowd = False
        self._namespace = _pid_namespace(root) if private_tmp else None
        # Held open, so that it can still be looked at when the program has ended.
        self._tmp: int | None = None

    async def watch(self, run: Supervision) -> None:
        """Look until a bound is passed; then stop the run and return."""
        unheld = not self._cgroup_holds("pids")
        period = _CROWD_PERIOD_S if unheld and os.geteuid() == 0 else _PERIOD_S
        usual = _tasks_of_the_machine()
        next_look = 0.0

        def crowded() -> bool:
            return unheld and _tasks_of_the_machine() - usual >= self._limits.processes // 2

        def last_look() -> tuple[RunEnding, str] | None:
            self._crowd = crowded()
            return self.look()

        run.last_look = last_look
        while True:
            self._crowd = crowded()
            if self._crowd or time.monotonic() >= next_look:
                passed = self.look()
                if passed is None and self._disk.wants_walk():
                    detail = await asyncio.to_thread(self._disk.passed, self._pids())
                    if detail:
                        passed = RunEnding.DISK_FULL, detail
                if passed is not None:
                    run.stop(*passed)
                    return
                next_look = time.monotonic() + (_PERIOD_S if self._tmp is not None else 0.0)
            await asyncio.sleep(period if self._tmp is not None or not self._private_tmp else _CROWD_PERIOD_S)

    def _pids(self) -> list[int]:
        if self._cgroup is not None:
            return self._cgroup.pids()
        most = self._limits.processes + 1
        if self._crowd and self._namespace is not None:
            # In a crowd whose members come and go, a walk from parent to child loses whole branches.
            return _members(self._namespace, most=most)
        return tree_of(self._root, most=most)

    def look(self) -> tuple[RunEnding, str] | None:
        """Look once at memory, processes, CPU time and ``/tmp``."""
        limits, held = self._limits, {name: self._cgroup_holds(name) for name in ("memory", "pids")}
        memory = tasks = 0
        too_much = too_many = False
        cpu_seconds: float | None = None
        if self._cgroup is not None:
            events = self._cgroup.events()
            too_much, too_many = bool(events.out_of_memory), bool(events.refused_processes)
            cpu_seconds = events.cpu_seconds
        if not all(held.values()) or cpu_seconds is None:
            pids = self._pids()
            tasks, memory, cpu = _usage(pids)
            cpu_seconds = cpu if cpu_seconds is None else cpu_seconds
            if memory > limits.memory_bytes and not held["memory"]:
                too_much = _proportional_bytes(pids) > limits.memory_bytes
            # Under an rlimit a crowd that comes and goes stays just below the bound whenever it is counted.
            crowded = limits.processes if os.geteuid() == 0 else limits.processes - limits.processes // 8
            too_many = too_many or (tasks >= crowded and not held["pids"])
        # A look at what has just ended finds nothing: what was used stays used.
        self.cpu_seconds = max(self.cpu_seconds or 0.0, cpu_seconds)
        passed = {
            RunEnding.OUT_OF_MEMORY: too_much and f"used more than {limits.memory_bytes // MIB} MiB of memory",
            RunEnding.TOO_MANY_PROCESSES: too_many and f"wanted more than {limits.processes} processes and threads",
            RunEnding.CPU_LIMIT: self.cpu_seconds > limits.cpu.total_seconds()
            and f"used more than {limits.cpu.total_seconds():g} s of CPU time",
            RunEnding.DISK_FULL: self._tmp_is_full() and f"filled its /tmp of {limits.tmp_bytes // MIB} MiB",
        }
        return next(((ending, detail) for ending, detail in passed.items() if detail), None)

    def _tmp_is_full(self) -> bool:
        if not self._private_tmp:
            return False
        with contextlib.suppress(OSError):
            if self._tmp is None:
                tmp = os.open(f"/proc/{self._root}/root/tmp", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                if os.fstat(tmp).st_dev == os.stat("/tmp").st_dev:  # noqa: PTH116, S108
                    os.close(tmp)  # the sandbox has not changed its root yet
                    return False
                self._tmp = tmp
            room = os.fstatvfs(self._tmp)
            return bool(room.f_blocks) and room.f_bavail == 0
        return False

    def close(self) -> None:
        """Let go of the sandbox's ``/tmp``, which lives on as long as it is held."""
        if self._tmp is not None:
            os.close(self._tmp)
            self._tmp = None

    def _cgroup_holds(self, controller: str) -> bool:
        return self._cgroup is not None and self._cgroup.holds(controller)
