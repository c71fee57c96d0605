"""Control groups, versions 1 and 2: bounds on memory and processes that the kernel holds for a whole process tree.

Version 2 (``Documentation/admin-guide/cgroup-v2.rst``): one tree; a group may hand controllers to its children only
while no process is in it itself. Version 1 (``admin-guide/cgroup-v1/``): a tree for each controller.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from corral.adapters.sandbox.port import SandboxLimits

_WANTED = ("memory", "pids", "cpu", "cpuacct")
_REMOVE_WITHIN_S = 2.0
_V2_LEAF = "corral-worker"


@dataclass(frozen=True, slots=True)
class CgroupEvents:
    """What the kernel has counted of a group so far."""

    out_of_memory: int = 0
    refused_processes: int = 0
    cpu_seconds: float | None = None


def _number(path: Path, key: str | None = None) -> int | None:
    """Read a number from a control file: the whole of it, or the value beside ``key``."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        return None
    if key is None:
        return int(text) if text.strip().isdigit() else None
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return None


class Cgroup:
    """One run's group: a folder in each tree that holds a controller."""

    def __init__(self, folders: Mapping[str, Path], *, version: int) -> None:
        """Stand for folders that exist: controller → folder (all the same one in version 2)."""
        self._folders = dict(folders)
        self._version = version

    @classmethod
    def of_container(cls, pid: int, container: str, *, proc: Path = Path("/proc")) -> Cgroup | None:
        """Find a container's group, which its engine made, to read its counters; None when it can't be seen.

        Engines name the group by the container's id. Any other group is refused, for its counters are of other
        processes too: in version 1 the kernel says of a process that has ended that it is in the root, and with an
        engine that makes no groups a container stays in the group that started it.

        Args:
            pid: The container's first process, as the host numbers it.
            container: The container's full id.
            proc: Where the process file system is.
        """
        try:
            mounts = _mounted((proc / "self" / "mountinfo").read_text())
            named = {
                controller: path
                for controller, path in _own_groups((proc / str(pid) / "cgroup").read_text()).items()
                if container in path
            }
        except OSError:
            return None
        if old := {controller: mount for mount in mounts for controller in sorted(mount.controllers)}:
            found = {controller: _folder(mount, named.get(controller)) for controller, mount in old.items()}
            folders = {name: folder for name, folder in found.items() if folder is not None}
            return cls(folders, version=1) if folders else None
        folder = next((_folder(mount, named.get("")) for mount in mounts if not mount.controllers), None)
        if folder is None:
            return None
        if folder.name == "container":  # crun's own, below the group that has the bounds
            folder = folder.parent
        held = {"memory", "pids", "cpu"} & set(_words(folder / "cgroup.controllers"))
        return cls(dict.fromkeys(sorted(held), folder), version=2) if held else None

    @property
    def folders(self) -> tuple[Path, ...]:
        """Each folder once."""
        return tuple(dict.fromkeys(self._folders.values()))

    def holds(self, controller: str) -> bool:
        """Whether this group bounds ``memory`` or ``pids``."""
        return controller in self._folders

    def bound(self, limits: SandboxLimits) -> None:
        """Write the limits.

        Raises:
            OSError: The kernel refused one.
        """
        if memory := self._folders.get("memory"):
            if self._version == 2:
                (memory / "memory.max").write_text(str(limits.memory_bytes))
                with contextlib.suppress(OSError):  # no swap accounting in this kernel
                    (memory / "memory.swap.max").write_text("0")
                with contextlib.suppress(OSError):  # before Linux 4.19
                    (memory / "memory.oom.group").write_text("1")
            else:
                (memory / "memory.limit_in_bytes").write_text(str(limits.memory_bytes))
                with contextlib.suppress(OSError):
                    (memory / "memory.memsw.limit_in_bytes").write_text(str(limits.memory_bytes))
        if pids := self._folders.get("pids"):
            (pids / "pids.max").write_text(str(limits.processes))

    def add(self, pid: int) -> None:
        """Move a process in; what it starts afterwards is in too.

        Raises:
            OSError: It may not be moved, or is gone.
        """
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def events(self) -> CgroupEvents:
        """Read the counters."""
        out_of_memory = refused = None
        cpu_seconds: float | None = None
        if memory := self._folders.get("memory"):
            name = "memory.events" if self._version == 2 else "memory.oom_control"
            out_of_memory = _number(memory / name, "oom_kill")
        if pids := self._folders.get("pids"):
            refused = _number(pids / "pids.events", "max")
        if self._version == 2:
            for folder in self.folders[:1]:
                usage = _number(folder / "cpu.stat", "usage_usec")
                cpu_seconds = None if usage is None else usage / 1e6
        elif accounting := self._folders.get("cpuacct"):
            usage = _number(accounting / "cpuacct.usage")
            cpu_seconds = None if usage is None else usage / 1e9
        return CgroupEvents(out_of_memory or 0, refused or 0, cpu_seconds)

    def peak_memory_bytes(self) -> int | None:
        """Most memory used at once; None where the kernel doesn't say."""
        memory = self._folders.get("memory")
        if memory is None:
            return None
        return _number(memory / ("memory.peak" if self._version == 2 else "memory.max_usage_in_bytes"))

    def pids(self) -> list[int]:
        """Return the processes in it."""
        return sorted({pid for folder in self.folders for pid in _processes(folder)})

    def remove(self) -> bool:
        """Kill what is left in it and remove it; True when it is gone."""
        return remove_folders(self.folders)


def _processes(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except (OSError, ValueError):
        return []


def remove_folders(folders: Iterable[Path]) -> bool:
    """Kill everything in cgroup folders and remove them; True when all are gone.

    A group can't be removed until the kernel has buried its last process, so this waits a little (it blocks).
    """
    deadline = time.monotonic() + _REMOVE_WITHIN_S
    left = [folder for folder in folders if folder.exists()]
    while left:
        for folder in list(left):
            for pid in _processes(folder):
                with contextlib.suppress(OSError):
                    os.kill(pid, 9)
            try:
                folder.rmdir()
            except FileNotFoundError:
                left.remove(folder)
            except OSError:
                if time.monotonic() > deadline:
                    return False
            else:
                left.remove(folder)
        if left:
            time.sleep(0.002)
    return True


@dataclass(frozen=True, slots=True)
class _Mounted:
    controllers: frozenset[str]  # empty: version 2
    root: str
    point: Path


def _mounted(mountinfo: str) -> list[_Mounted]:
    """Read cgroup mounts out of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5))."""
    found = []
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        if not separator:
            continue
        fields, (kind, _, options) = before.split(), after.split(" ", 2)
        if kind == "cgroup2":
            found.append(_Mounted(frozenset(), fields[3], Path(fields[4])))
        elif kind == "cgroup":
            found.append(_Mounted(frozenset(options.split(",")) & frozenset(_WANTED), fields[3], Path(fields[4])))
    return found


class CgroupTree:
    """Where this process may make groups, per controller."""

    def __init__(self, parents: Mapping[str, Path], *, version: int) -> None:
        """Take folders in which groups can be made: controller → folder."""
        self._parents = dict(parents)
        self.version = version

    @property
    def controllers(self) -> frozenset[str]:
        """What can be bounded: of ``memory``, ``pids``, ``cpu``, ``cpuacct``."""
        return frozenset(self._parents)

    @classmethod
    def discover(cls, *, process: Path = Path("/proc/self"), parent: Path | None = None) -> CgroupTree:
        """Find where groups can be made; without rights, or without cgroups, the tree has no controllers.

        Args:
            process: The process whose own groups are the starting point.
            parent: A version 2 group that was delegated to this worker; None looks for one.
        """
        if parent is not None:
            return cls._version_2(parent, own=False)
        try:
            mounts = _mounted((process / "mountinfo").read_text())
            own = _own_groups((process / "cgroup").read_text())
        except OSError:
            return cls({}, version=2)
        first: dict[str, Path] = {}
        for mount in mounts:
            for controller in mount.controllers:
                folder = _folder(mount, own.get(controller))
                if folder is not None and controller not in first and _may_make_groups(folder):
                    first[controller] = folder
        if {"memory", "pids"} & first.keys():
            return cls(first, version=1)
        for mount in mounts:
            if not mount.controllers:
                folder = _folder(mount, own.get(""))
                if folder is not None:
                    return cls._version_2(folder, own=True)
        return cls({}, version=2)

    @classmethod
    def _version_2(cls, folder: Path, *, own: bool) -> CgroupTree:
        if not _may_make_groups(folder):
            return cls({}, version=2)
        wanted = set(_words(folder / "cgroup.controllers")) & {"memory", "pids", "cpu"}
        enabled = set(_words(folder / "cgroup.subtree_control"))
        if not wanted <= enabled:
            if own and not _leave(folder):
                return cls(dict.fromkeys(wanted & enabled, folder), version=2)
            for controller in sorted(wanted - enabled):
                with contextlib.suppress(OSError):
                    (folder / "cgroup.subtree_control").write_text(f"+{controller}")
            enabled = set(_words(folder / "cgroup.subtree_control"))
        return cls(dict.fromkeys(wanted & enabled, folder), version=2)

    def make(self, name: str) -> Cgroup | None:
        """Make a group in each tree; None when there is no tree to make it in.

        Raises:
            OSError: The kernel refused, though the tree was writable.
        """
        if not self._parents:
            return None
        folders: dict[str, Path] = {}
        for controller, parent in self._parents.items():
            folder = parent / name
            folder.mkdir(exist_ok=True)
            folders[controller] = folder
        return Cgroup(folders, version=self.version)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _own_groups(text: str) -> dict[str, str]:
    """Controller → path, of ``/proc/self/cgroup``; version 2's key is ""."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            groups[controller] = path
    return groups


def _folder(mount: _Mounted, path: str | None) -> Path | None:
    if path is None:
        return None
    root = mount.root.rstrip("/")
    if path != root and not path.startswith(root + "/"):
        return None  # the mount shows another part of the tree (a container's)
    return mount.point / path[len(root) :].lstrip("/")


def _may_make_groups(folder: Path) -> bool:
    probe = folder / f"corral-probe-{os.getpid()}"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True


def _leave(folder: Path) -> bool:
    """Make ``folder`` empty of processes, which version 2 wants of a group that hands out controllers.

    Only when this process is alone in it: others' processes are not ours to move. The root group is exempt.
    """
    if not (folder / "cgroup.type").exists():
        return True  # the real root, which has no such file
    if _processes(folder) != [os.getpid()]:
        return False
    leaf = folder / _V2_LEAF
    try:
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        return False
    return True
