from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from corral.adapters.processes import end_group, start_group
from corral.adapters.sandbox.orphans import start_time


async def gone(pid: int) -> None:
    """Wait until a process has ended (one that waits for its parent has)."""
    while start_time(pid) is not None and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("times", [1, 3])
async def test_a_start_that_is_cancelled_leaves_no_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, times: int
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    made: list[asyncio.subprocess.Process] = []
    real = asyncio.create_subprocess_exec

    async def slow_start(*command: Any, **options: Any) -> asyncio.subprocess.Process:
        process = await real(*command, stdout=asyncio.subprocess.PIPE, **options)
        assert process.stdout is not None
        (tmp_path / "child").write_bytes(await process.stdout.readline())
        made.append(process)
        begun.set()
        await go_on.wait()
        return process

    monkeypatch.setattr(asyncio, "create_subprocess_exec", slow_start)
    starting = asyncio.create_task(start_group("/bin/sh", "-c", "sleep 600 & echo $!; sleep 600"))
    await begun.wait()
    for _ in range(times):
        starting.cancel()
        await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert made[0].returncode is not None
    await gone(int((tmp_path / "child").read_text()))


async def test_a_program_that_cannot_be_started() -> None:
    with pytest.raises(FileNotFoundError):
        await start_group("/no/such/program")


async def test_the_group_is_ended(tmp_path: Path) -> None:
    process = await start_group("/bin/sh", "-c", "sleep 600 & echo $!; sleep 600", stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    child = int(await process.stdout.readline())
    assert os.getpgid(process.pid) == process.pid
    await end_group(process)
    await end_group(process)
    await gone(child)
