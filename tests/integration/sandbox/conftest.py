from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox
from corral.adapters.sandbox.cgroups import CgroupTree
from corral.adapters.sandbox.port import MIB, Mount, SandboxLimits, SandboxRequest, SandboxResult

#: Small, so that a hostile program meets them soon.
TIGHT = SandboxLimits(
    memory_bytes=128 * MIB,
    processes=48,
    cpu=timedelta(seconds=20),
    file_size_bytes=64 * MIB,
    disk_bytes=96 * MIB,
    disk_entries=3000,
    tmp_bytes=8 * MIB,
    output_bytes=512 * 1024,
    open_files=128,
)


@dataclass
class Ran:
    result: SandboxResult
    output: str


@dataclass
class Cell:
    """A sandbox and a worktree, to run scripts in."""

    sandbox: BubblewrapSandbox
    worktree: Path
    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    async def run(
        self,
        *command: str,
        limits: SandboxLimits = TIGHT,
        seconds: float = 20.0,
        mounts: tuple[Mount, ...] = (),
        env: dict[str, str] | None = None,
        on_output: Callable[[bytes], None] | None = None,
    ) -> Ran:
        said = bytearray()

        def sink(chunk: bytes) -> None:
            said.extend(chunk)
            if on_output is not None:
                on_output(chunk)

        request = SandboxRequest(
            command=command,
            worktree=self.worktree,
            timeout=timedelta(seconds=seconds),
            limits=limits,
            mounts=mounts,
            env=env or {},
        )
        result = await self.sandbox.run(request, sink)
        return Ran(result, said.decode(errors="replace"))

    async def python(self, script: str, **options: object) -> Ran:
        return await self.run("python3", "-I", "-c", textwrap.dedent(script), **options)  # type: ignore[arg-type]

    async def shell(self, script: str, **options: object) -> Ran:
        return await self.run("/bin/sh", "-c", script, **options)  # type: ignore[arg-type]


MakeCell = Callable[..., Awaitable[Cell]]


@pytest.fixture
async def make_cell(tmp_path: Path) -> AsyncIterator[MakeCell]:
    cells: list[Cell] = []

    async def make(*, cgroups: CgroupTree | None = None) -> Cell:
        worktree = tmp_path / f"tree-{len(cells)}"
        worktree.mkdir()
        home = tmp_path / "runs"
        sandbox = BubblewrapSandbox(home=home, cgroups=cgroups)
        await sandbox.check()
        cell = Cell(sandbox, worktree, home)
        cells.append(cell)
        return cell

    yield make
    for cell in cells:
        await cell.sandbox.close()


@pytest.fixture
async def cell(make_cell: MakeCell) -> Cell:
    return await make_cell()


@pytest.fixture(params=["cgroup", "no cgroup"])
async def each_cell(make_cell: MakeCell, request: pytest.FixtureRequest) -> Cell:
    """A sandbox with this machine's cgroups, and one that has none and must do without."""
    if request.param == "cgroup":
        tree = CgroupTree.discover()
        if not {"memory", "pids"} <= tree.controllers:
            pytest.skip("this user may make no cgroups here")
        return await make_cell(cgroups=tree)
    return await make_cell(cgroups=CgroupTree({}, version=2))
