"""What is left when a worker is killed while programs run, and who cleans it up."""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
from pathlib import Path

import pytest
from tests.integration.sandbox.test_bounds import processes_in

from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox
from corral.adapters.sandbox.port import Sandbox
from corral.adapters.sandbox.unconfined import UnconfinedSandbox

WORKER = """
    import asyncio, sys
    from datetime import timedelta
    from pathlib import Path
    from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox
    from corral.adapters.sandbox.unconfined import UnconfinedSandbox
    from corral.adapters.sandbox.port import SandboxRequest

    kind, home, tree = sys.argv[1:]
    sandbox = {"bubblewrap": BubblewrapSandbox, "none": UnconfinedSandbox}[kind](home=Path(home))

    def say(chunk):
        if b"running" in chunk:
            print("running", flush=True)

    script = "setsid sleep 317 & echo running; sleep 317"
    request = SandboxRequest(command=("/bin/sh", "-c", script), worktree=Path(tree), timeout=timedelta(minutes=9))
    asyncio.run(sandbox.run(request, say))
"""


def make(kind: str, home: Path) -> Sandbox:
    return BubblewrapSandbox(home=home) if kind == "bubblewrap" else UnconfinedSandbox(home=home)


@pytest.mark.parametrize("kind", ["bubblewrap", "none"])
async def test_a_killed_workers_run_is_cleaned_up(kind: str, tmp_path: Path) -> None:
    home, tree = tmp_path / "runs", tmp_path / "tree"
    tree.mkdir()
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", textwrap.dedent(WORKER), kind, str(home), str(tree),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3], env={"PYTHONPATH": "src", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert worker.stdout is not None
    assert await worker.stdout.readline() == b"running\n"
    survivor = make(kind, home)
    try:
        # While the worker lives, nobody touches what is its.
        assert (await survivor.reap()).runs == 0
        assert [path for path in home.glob("*/*") if path.is_dir()]
        worker.send_signal(signal.SIGKILL)
        await worker.wait()
        reaped = await survivor.reap()
        assert reaped.runs == 1
        assert list(home.glob("*/*")) == []
        if kind == "bubblewrap":
            # The kernel ended the programs with the worker.
            assert await _gone(tree)
            assert list(Path("/sys/fs/cgroup").glob(f"**/corral-{worker.pid}-*")) == []
        else:
            assert reaped.processes == 1
        assert (await survivor.reap()).runs == 0
    finally:
        await survivor.close()


async def _gone(tree: Path) -> bool:
    for _ in range(200):
        if not processes_in(tree):
            return True
        await asyncio.sleep(0.01)
    return False
