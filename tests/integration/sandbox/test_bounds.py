"""Programs that want more than their share: each ends in time, and with its reason named."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.integration.sandbox.conftest import TIGHT, Cell

from corral.adapters.sandbox.port import MIB, RunEnding


async def test_a_fork_bomb_is_named(each_cell: Cell) -> None:
    ran = await each_cell.python(
        """
        import os, time
        while True:
            try:
                if os.fork() == 0:
                    time.sleep(60)
            except OSError:
                time.sleep(60)
        """
    )
    assert ran.result.ending is RunEnding.TOO_MANY_PROCESSES
    assert "48" in ran.result.detail
    assert ran.result.seconds < 15


async def test_an_exponential_fork_bomb_is_named(each_cell: Cell) -> None:
    ran = await each_cell.shell("f() { f | f & }; f; sleep 60", seconds=5.0)
    assert ran.result.ending is RunEnding.TOO_MANY_PROCESSES


async def test_threads_count_as_processes(cell: Cell) -> None:
    ran = await cell.python(
        """
        import threading, time
        for _ in range(1000):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        """
    )
    assert ran.result.ending is RunEnding.TOO_MANY_PROCESSES


async def test_a_memory_hog_is_named(each_cell: Cell) -> None:
    ran = await each_cell.python(
        """
        kept = []
        while True:
            try:
                kept.append(bytearray(8 << 20))
            except MemoryError:
                pass
        """,
        seconds=4.0,
    )
    if each_cell.sandbox.bounds()["memory"] == "cgroup":
        assert ran.result.ending is RunEnding.OUT_OF_MEMORY
        assert ran.result.peak_memory_bytes is not None
        assert ran.result.peak_memory_bytes <= TIGHT.memory_bytes
    else:
        # One process alone meets its rlimit: the program sees the error, and spins until its time is over here.
        assert ran.result.ending in (RunEnding.OUT_OF_MEMORY, RunEnding.TIMEOUT, RunEnding.CPU_LIMIT)


async def test_a_memory_hog_of_many_processes_is_named(each_cell: Cell) -> None:
    ran = await each_cell.python(
        """
        import os, time
        for _ in range(6):
            if os.fork() == 0:
                break
        kept = bytearray(os.urandom(1 << 20) * 40)
        time.sleep(60)
        """
    )
    assert ran.result.ending is RunEnding.OUT_OF_MEMORY
    assert "128 MiB" in ran.result.detail


async def test_files_in_memory_count_as_memory(cell: Cell) -> None:
    if cell.sandbox.bounds()["memory"] != "cgroup":
        pytest.skip("only a cgroup counts these")
    ran = await cell.python(
        """
        import os
        for number in range(8):
            with open(os.memfd_create(str(number)), "wb") as file:
                for _ in range(40):
                    file.write(bytes(1 << 20))
                os.dup(file.fileno())
        """
    )
    assert ran.result.ending is RunEnding.OUT_OF_MEMORY


async def test_a_disk_filler_is_named(each_cell: Cell) -> None:
    ran = await each_cell.python(
        """
        import time
        for number in range(10_000):
            with open(str(number), "wb") as file:
                file.write(bytes(4 << 20))
            time.sleep(0.01)
        """
    )
    assert ran.result.ending is RunEnding.DISK_FULL
    assert "96 MiB" in ran.result.detail
    written = sum(path.stat().st_size for path in each_cell.worktree.iterdir())
    assert written < 3 * TIGHT.disk_bytes


async def test_a_disk_filler_that_hides_its_file_is_named(cell: Cell) -> None:
    ran = await cell.python(
        """
        import os, time
        kept = []
        for number in range(20):
            file = open("hidden", "wb", buffering=0)
            os.unlink("hidden")
            kept.append(file)
            for _ in range(10):
                file.write(bytes(2 << 20))
                time.sleep(0.01)
        time.sleep(60)
        """
    )
    assert ran.result.ending is RunEnding.DISK_FULL


async def test_too_many_files_are_named(cell: Cell) -> None:
    ran = await cell.python(
        """
        import itertools, time
        for number in itertools.count():
            open(str(number), "w").close()
            if number % 1000 == 0:
                time.sleep(0.05)
        """
    )
    assert ran.result.ending is RunEnding.DISK_FULL
    assert "3000 files" in ran.result.detail


async def test_one_large_file_is_named(cell: Cell) -> None:
    ran = await cell.shell("exec dd if=/dev/zero of=large bs=1M count=200 2>/dev/null")
    assert ran.result.ending is RunEnding.DISK_FULL
    assert (cell.worktree / "large").stat().st_size <= TIGHT.file_size_bytes


@pytest.mark.parametrize("folder", ["/tmp", "/tmp/home"])
async def test_a_full_tmp_is_named(cell: Cell, folder: str) -> None:
    ran = await cell.shell(f"dd if=/dev/zero of={folder}/x bs=1M count=60 2>/dev/null; sleep 60")
    assert ran.result.ending is RunEnding.DISK_FULL
    assert "/tmp" in ran.result.detail


async def test_a_full_tmp_is_named_when_the_program_ends_at_once(cell: Cell) -> None:
    ran = await cell.shell("dd if=/dev/zero of=/tmp/x bs=1M count=60 2>/dev/null")
    assert ran.result.ending is RunEnding.DISK_FULL


async def test_shared_memory_is_bounded(cell: Cell) -> None:
    ran = await cell.shell("dd if=/dev/zero of=/dev/shm/x bs=1M count=60 2>/dev/null; stat -c %s /dev/shm/x")
    assert int(ran.output) <= TIGHT.tmp_bytes // 4


async def test_a_gigabyte_of_output_is_cut_and_named(cell: Cell) -> None:
    ran = await cell.python(
        """
        import os
        block = b"x" * 1_000_000
        for _ in range(1000):
            os.write(1, block)
        """
    )
    assert ran.result.ending is RunEnding.OUTPUT_LIMIT
    assert len(ran.output) == TIGHT.output_bytes
    assert ran.result.seconds < 10


async def test_cpu_time_is_of_the_whole_tree(each_cell: Cell) -> None:
    limits = replace(TIGHT, cpu=timedelta(seconds=1))
    # Each process stays below the bound for long; together they pass it.
    ran = await each_cell.shell("for i in 1 2 3 4; do (while :; do :; done) & done; wait", limits=limits)
    assert ran.result.ending is RunEnding.CPU_LIMIT
    assert ran.result.cpu_seconds is None or ran.result.cpu_seconds < 5


async def test_open_files_are_bounded(cell: Cell) -> None:
    ran = await cell.python("kept = [open('/dev/null') for _ in range(1000)]")
    assert ran.result.exit_code == 1
    assert "Too many open files" in ran.output


async def test_the_timeout_is_of_the_whole_tree(cell: Cell) -> None:
    began = time.monotonic()
    ran = await cell.python(
        """
        import os, signal, time
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP})
        for _ in range(3):
            if os.fork() == 0:
                os.setsid()
                if os.fork() != 0:
                    os._exit(0)
        time.sleep(600)
        """,
        seconds=1.0,
    )
    assert ran.result.ending is RunEnding.TIMEOUT
    assert ran.result.exit_code is None
    assert time.monotonic() - began < 8
    assert not processes_in(cell.worktree)


async def test_daemons_end_with_the_command(cell: Cell) -> None:
    ran = await cell.shell("setsid sh -c 'trap \"\" TERM HUP; sleep 600' & echo started")
    assert ran.result.ending is RunEnding.EXITED
    assert ran.result.exit_code == 0
    assert ran.output == "started\n"
    assert not processes_in(cell.worktree)


async def test_a_cancelled_run_leaves_nothing(cell: Cell) -> None:
    started = asyncio.Event()
    task = asyncio.create_task(cell.shell("setsid sleep 600 & echo up; sleep 600", on_output=lambda _: started.set()))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not processes_in(cell.worktree)
    assert runs_of(cell) == []


async def test_nothing_is_left_behind(each_cell: Cell) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    mounts = Path("/proc/self/mountinfo").read_text()
    for script in ("true", "kill -9 $$", "exec sleep 600"):
        await each_cell.shell(script, seconds=0.5)
    assert runs_of(each_cell) == []
    assert list(each_cell.worktree.iterdir()) == []
    assert cgroups_left() == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1  # the lock of this worker


async def test_other_runs_feel_nothing(cell: Cell) -> None:
    hog = asyncio.create_task(cell.shell("f() { f | f & }; f; sleep 60"))
    quiet = await cell.run("/bin/sh", "-c", "i=0; while [ $i -lt 20 ]; do /bin/true; i=$((i+1)); done; echo fine")
    assert quiet.result.exit_code == 0
    assert quiet.output == "fine\n"
    assert (await hog).result.ending is RunEnding.TOO_MANY_PROCESSES


async def test_the_event_loop_is_not_held_up(cell: Cell) -> None:
    longest = 0.0

    async def measure() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            await asyncio.sleep(0)
            longest = max(longest, time.monotonic() - began)
            await asyncio.sleep(0.005)

    measuring = asyncio.create_task(measure())
    limits = replace(TIGHT, output_bytes=64 * MIB)
    await cell.python("import os\nfor _ in range(100): os.write(1, b'x' * 1_000_000)", limits=limits)
    measuring.cancel()
    assert longest < 0.5


def processes_in(worktree: Path) -> list[str]:
    """Programs that have the worktree mounted."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(worktree) in Path(entry.path, "mountinfo").read_text():
                    found.append(Path(entry.path, "cmdline").read_text())
            except OSError:
                continue
    return found


def runs_of(cell: Cell) -> list[str]:
    return [str(path) for path in cell.home.glob("*/*") if path.is_dir()]


def cgroups_left() -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/corral-{os.getpid()}-*")]
