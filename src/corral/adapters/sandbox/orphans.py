"""What each worker of this machine has running, on disk, so that others can clean up after one that was killed.

A worker holds a lock (``flock``) on its own folder's ``lock`` file for as long as it lives; the kernel lets go of it
when the worker dies, however it dies. A folder whose lock is free belongs to a dead worker.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corral.adapters.sandbox.cgroups import remove_folders
from corral.adapters.sandbox.port import Reaped
from corral.adapters.sandbox.removal import remove_tree

_LOCK = "lock"
_RECORD = "record.json"


@dataclass(slots=True)
class RunRecord:
    """One run's folder: scratch space, and what must be removed should the worker die."""

    folder: Path
    name: str
    _noted: dict[str, Any] = field(default_factory=dict)

    def note(self, *, cgroups: Sequence[Path] = (), process_group: int | None = None) -> None:
        """Write down what exists outside the folder, before it exists where possible.

        Args:
            cgroups: Folders of cgroups.
            process_group: Its leader's pid, for runs whose processes do not die with the worker.
        """
        if cgroups:
            self._noted["cgroups"] = [str(path) for path in cgroups]
        if process_group is not None:
            self._noted["process_group"] = process_group
            self._noted["started"] = start_time(process_group)
        temporary = self.folder / (_RECORD + ".new")
        temporary.write_text(json.dumps(self._noted))
        temporary.replace(self.folder / _RECORD)

    def remove(self) -> None:
        """Remove the folder (it blocks)."""
        remove_tree(self.folder)


class RunRegistry:
    """This worker's folder of runs, and the reaper of the others'."""

    def __init__(self, home: Path) -> None:
        """Use ``home``, shared by all workers of one data folder; nothing is written before the first run."""
        self._home = home
        self._token = f"{os.getpid()}-{secrets.token_hex(6)}"
        self._lock: int | None = None
        self._count = 0
        self._opening = threading.Lock()

    @property
    def token(self) -> str:
        """This worker's name among the workers here."""
        return self._token

    def open(self) -> RunRecord:
        """Make a folder for a new run.

        Raises:
            OSError: The disk is full or read-only.
        """
        with self._opening:
            if self._lock is None:
                self._lock = self._claim()
            self._count += 1
            count = self._count
        folder = self._home / self._token / str(count)
        folder.mkdir(mode=0o700)
        return RunRecord(folder, f"corral-{self._token}-{count}")

    def _claim(self) -> int:
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Locked before it is in place: a reaper must never see this worker's folder without its lock.
        building = self._home / f".{self._token}"
        building.mkdir(mode=0o700)
        lock = os.open(building / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        building.rename(self._home / self._token)
        return lock

    def close(self) -> None:
        """Remove this worker's folder and let go of its lock (it blocks)."""
        if self._lock is not None:
            remove_tree(self._home / self._token)
            os.close(self._lock)
            self._lock = None

    def is_dead(self, token: str) -> bool:
        """Whether no living worker holds ``token``."""
        if token == self._token:
            return False
        lock = _take_lock(self._home / token / _LOCK)
        if lock is None:
            return False
        os.close(lock)
        return True

    def reap(self) -> Reaped:
        """Remove what dead workers left: processes, cgroups, folders (it blocks)."""
        runs = cgroups = processes = 0
        try:
            folders = [path for path in self._home.iterdir() if path.is_dir() and not path.name.startswith(".")]
        except OSError:
            return Reaped()
        for worker in folders:
            if worker.name == self._token:
                continue
            lock = _take_lock(worker / _LOCK)
            if lock is None:
                continue
            try:
                for run in [path for path in worker.iterdir() if path.is_dir()]:
                    runs += 1
                    killed, removed = _clean_up(run)
                    processes += killed
                    cgroups += removed
                remove_tree(worker)
            finally:
                os.close(lock)
        return Reaped(runs=runs, cgroups=cgroups, processes=processes)


def _take_lock(path: Path) -> int | None:
    """Lock ``path`` if nobody has it; a missing file counts as free when its folder is there to be removed."""
    try:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _clean_up(run: Path) -> tuple[int, int]:
    """Remove what a dead run noted; returns processes killed and cgroups removed."""
    try:
        noted = json.loads((run / _RECORD).read_text())
    except (OSError, ValueError):
        return 0, 0
    killed = 0
    group = noted.get("process_group")
    # The same number may be another process by now; only the same start time makes it the same one.
    if isinstance(group, int) and group > 1 and noted.get("started") == start_time(group) is not None:
        with contextlib.suppress(OSError):
            os.killpg(group, 9)
            killed = 1
    present = [Path(path) for path in noted.get("cgroups", ()) if Path(path).is_dir()]
    return killed, len(present) if remove_folders(present) else 0


def start_time(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc_pid_stat(5), field 22); None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])
