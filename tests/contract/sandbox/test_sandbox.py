"""What every sandbox promises: one suite for the double and for all real ones that can run here."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePosixPath

import pytest
from tests.support.container_engine import IMAGE

from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox
from corral.adapters.sandbox.container import ContainerSandbox
from corral.adapters.sandbox.port import Mount, RunEnding, Sandbox, SandboxLimits, SandboxRequest, SandboxResult
from corral.adapters.sandbox.scripted import ScriptedProcess, ScriptedSandbox
from corral.adapters.sandbox.unconfined import UnconfinedSandbox


async def greet(process: ScriptedProcess) -> int:
    process.write(f"hello {process.env['NAME']} {process.env['CI']}\n")
    return 0


async def fail(_: ScriptedProcess) -> int:
    return 3


async def die(_: ScriptedProcess) -> int:
    return -9


async def sleep(process: ScriptedProcess) -> int:
    process.write("begun\n")
    await asyncio.sleep(600)
    return 0


async def chatter(process: ScriptedProcess) -> int:
    while True:
        process.write(b"x" * 1000)
        await asyncio.sleep(0)


async def write(process: ScriptedProcess) -> int:
    process.path("/workspace/out").write_text("written")
    process.path("/corral/report/out").write_text("reported")
    process.write(process.path("/corral/data").read_text())
    return 0


#: Each command, and what the double does in its place.
PROGRAMS = {
    'echo "hello $NAME $CI"': greet,
    "exit 3": fail,
    "sh -c 'kill -9 $$'; exit $?": die,
    "echo begun; sleep 600": sleep,
    "yes": chatter,
    "echo -n written > /workspace/out; echo -n reported > /corral/report/out; cat /corral/data": write,
}


def engine_works(engine: str) -> bool:
    program = shutil.which(engine)
    if program is None:
        return False
    done = subprocess.run([program, "image", "inspect", IMAGE], capture_output=True, timeout=30, check=False)
    return done.returncode == 0


@pytest.fixture(params=["scripted", "bubblewrap", "none", "docker", "podman"])
async def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sandbox]:
    home = tmp_path / "runs"
    made: Sandbox
    if request.param == "scripted":
        made = ScriptedSandbox(PROGRAMS)
    elif request.param == "bubblewrap":
        made = BubblewrapSandbox(home=home)
    elif request.param == "none":
        made = UnconfinedSandbox(home=home)
    elif request.param == "podman":
        program = request.getfixturevalue("podman")
        made = ContainerSandbox("podman", home=home, image=IMAGE, program=program)
    else:
        if not engine_works("docker"):
            pytest.skip(f"no docker with the image {IMAGE} here (docs/test-execution.md says how to make it)")
        made = ContainerSandbox("docker", home=home, image=IMAGE)
    yield made
    await made.close()
    assert not list(home.glob("*/*"))


@pytest.fixture
def base(tmp_path: Path) -> SandboxRequest:
    worktree = tmp_path / "tree"
    worktree.mkdir()
    return SandboxRequest(command=("true",), worktree=worktree, timeout=timedelta(seconds=30))


async def run(sandbox: Sandbox, base: SandboxRequest, script: str, **changes: object) -> tuple[SandboxResult, str]:
    said = bytearray()
    request = replace(base, command=("/bin/sh", "-c", script), **changes)  # type: ignore[arg-type]
    result = await sandbox.run(request, said.extend)
    lines = [line for line in said.decode().splitlines(keepends=True) if "NOT contained" not in line]
    return result, "".join(lines)


async def test_it_says_its_version(sandbox: Sandbox) -> None:
    assert (await sandbox.check()).replace(".", "").isalnum()
    assert sandbox.name in ("scripted", "bubblewrap", "none", "docker", "podman")


async def test_output_environment_and_exit_code(sandbox: Sandbox, base: SandboxRequest) -> None:
    result, output = await run(sandbox, base, 'echo "hello $NAME $CI"', env={"NAME": "Ada"})
    assert output == "hello Ada true\n"
    assert (result.ending, result.exit_code, result.signal) == (RunEnding.EXITED, 0, None)
    assert result.seconds > 0


async def test_failing_is_a_result(sandbox: Sandbox, base: SandboxRequest) -> None:
    result, _ = await run(sandbox, base, "exit 3")
    assert (result.ending, result.exit_code) == (RunEnding.EXITED, 3)


async def test_a_signal_is_named(sandbox: Sandbox, base: SandboxRequest) -> None:
    result, _ = await run(sandbox, base, "sh -c 'kill -9 $$'; exit $?")
    assert (result.ending, result.exit_code, result.signal) == (RunEnding.SIGNALLED, None, 9)


async def test_an_unknown_command(sandbox: Sandbox, base: SandboxRequest) -> None:
    result, _ = await run(sandbox, base, "no-such-program")
    assert (result.ending, result.exit_code) == (RunEnding.EXITED, 127)


async def test_the_timeout(sandbox: Sandbox, base: SandboxRequest) -> None:
    seconds = 4.0 if isinstance(sandbox, ContainerSandbox) else 0.4
    result, output = await run(sandbox, base, "echo begun; sleep 600", timeout=timedelta(seconds=seconds))
    assert (result.ending, result.exit_code) == (RunEnding.TIMEOUT, None)
    assert output == "begun\n"
    assert "longer than" in result.detail


async def test_the_output_limit(sandbox: Sandbox, base: SandboxRequest) -> None:
    result, output = await run(sandbox, base, "yes", limits=SandboxLimits(output_bytes=50_000))
    assert (result.ending, result.exit_code) == (RunEnding.OUTPUT_LIMIT, None)
    assert 49_000 < len(output) <= 50_000


async def test_cancelling(sandbox: Sandbox, base: SandboxRequest) -> None:
    begun = asyncio.Event()

    def sink(chunk: bytes) -> None:
        if b"begun" in chunk:
            begun.set()

    request = replace(base, command=("/bin/sh", "-c", "echo begun; sleep 600"))
    task = asyncio.create_task(sandbox.run(request, sink))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_worktree_and_mounts(sandbox: Sandbox, base: SandboxRequest, tmp_path: Path) -> None:
    report, data = tmp_path / "report", tmp_path / "data"
    report.mkdir()
    data.write_text("given")
    mounts = (
        Mount(source=report, target=PurePosixPath("/corral/report"), writable=True),
        Mount(source=data, target=PurePosixPath("/corral/data")),
    )
    script = "echo -n written > /workspace/out; echo -n reported > /corral/report/out; cat /corral/data"
    result, output = await run(sandbox, base, script, mounts=mounts)
    assert result.exit_code == 0, output
    assert output == "given"
    assert (base.worktree / "out").read_text() == "written"
    assert (report / "out").read_text() == "reported"


async def test_several_at_once(sandbox: Sandbox, base: SandboxRequest, tmp_path: Path) -> None:
    requests = []
    for number in range(5):
        worktree = tmp_path / str(number)
        worktree.mkdir()
        requests.append(replace(base, worktree=worktree, env={"NAME": str(number)}))
    answers = await asyncio.gather(*[run(sandbox, request, 'echo "hello $NAME $CI"') for request in requests])
    assert [output for _, output in answers] == [f"hello {number} true\n" for number in range(5)]


async def test_reaping_beside_a_living_run(sandbox: Sandbox, base: SandboxRequest) -> None:
    reaped = await sandbox.reap()
    assert (reaped.runs, reaped.containers) == (0, 0)
