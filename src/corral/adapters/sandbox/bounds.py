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
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGESIZE")
#: A walk over the written files costs as much as it costs; this bounds its share of the time.
_WALK_SHARE = 0.05
_WALK_PERIOD_S = 1.0


def tree_of(root: int) -> list[int]:
    """Return ``root`` and all its descendants.

    In a pid namespace this is everybody: orphans become children of the namespace's first process.
    """
    found, waiting = [], [root]
    while waiting:
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

    async def watch(self, run: Supervision) -> None:
        """Look until a bound is passed; then stop the run and return."""
        while True:
            passed = self.look()
            if passed is None and self._disk.wants_walk():
                detail = await asyncio.to_thread(self._disk.passed, self._pids())
                if detail:
                    passed = RunEnding.DISK_FULL, detail
            if passed is not None:
                run.stop(*passed)
                return
            await asyncio.sleep(_PERIOD_S)

    def _pids(self) -> list[int]:
        return self._cgroup.pids() if self._cgroup else tree_of(self._root)

    def look(self) -> tuple[RunEnding, str] | None:
        """Look once at memory, processes, CPU time and ``/tmp``."""
        limits, cpu = self._limits, None
        if self._cgroup is not None:
            events = self._cgroup.events()
            if events.out_of_memory:
                return RunEnding.OUT_OF_MEMORY, f"used more than {limits.memory_bytes // MIB} MiB of memory"
            if events.refused_processes:
                return RunEnding.TOO_MANY_PROCESSES, f"wanted more than {limits.processes} processes and threads"
            cpu = events.cpu_seconds
        grouped = self._cgroup is not None
        if not grouped or cpu is None or not self._cgroup_holds("memory") or not self._cgroup_holds("pids"):
            tasks, resident, used = _usage(self._pids())
            cpu = used if cpu is None else cpu
            if tasks >= limits.processes and not self._cgroup_holds("pids"):
                return RunEnding.TOO_MANY_PROCESSES, f"wanted more than {limits.processes} processes and threads"
            if resident > limits.memory_bytes and not self._cgroup_holds("memory"):
                return RunEnding.OUT_OF_MEMORY, f"used more than {limits.memory_bytes // MIB} MiB of memory"
        self.cpu_seconds = cpu
        if cpu > limits.cpu.total_seconds():
            return RunEnding.CPU_LIMIT, f"used more than {limits.cpu.total_seconds():g} s of CPU time"
        if self._private_tmp:
            with contextlib.suppress(OSError):  # it has just ended
                room = os.statvfs(f"/proc/{self._root}/root/tmp")
                if room.f_blocks and room.f_bavail == 0:
                    return RunEnding.DISK_FULL, f"filled its /tmp of {limits.tmp_bytes // MIB} MiB"
        return None

    def _cgroup_holds(self, controller: str) -> bool:
        return self._cgroup is not None and self._cgroup.holds(controller)
