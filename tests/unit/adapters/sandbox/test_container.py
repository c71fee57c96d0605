"""The exact command line; no engine is needed."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path, PurePosixPath

import pytest

from corral.adapters.sandbox.container import ContainerSandbox, _environment_file
from corral.adapters.sandbox.orphans import RunRecord
from corral.adapters.sandbox.port import Mount, SandboxLimits, SandboxRequest
from corral.errors import SandboxFailed, SandboxUnavailable


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    folder = tmp_path / "run"
    folder.mkdir()
    return RunRecord(folder, "corral-1-ab-1")


@pytest.fixture
def run_request(tmp_path: Path) -> SandboxRequest:
    worktree = tmp_path / "tree"
    worktree.mkdir()
    return SandboxRequest(
        command=("/bin/sh", "-c", "make test"),
        worktree=worktree,
        timeout=timedelta(seconds=5),
        env={"A": "b c", "LD_PRELOAD": "/x.so"},
        limits=SandboxLimits(memory_bytes=1 << 30, processes=99, tmp_bytes=64 << 20),
    )


def test_the_command_line(tmp_path: Path, record: RunRecord, run_request: SandboxRequest) -> None:
    sandbox = ContainerSandbox("docker", home=tmp_path / "home", image="img")
    line = sandbox.command_line(run_request, record, image="img:1", user=(1000, 1001))
    home = sandbox._home_label
    assert line == [
        "run", "--name", "corral-1-ab-1", "--label", f"corral.home={home}",
        "--label", f"corral.worker={sandbox._registry.token}", "--pull", "never", "--network", "none",
        "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--read-only", "--ipc", "private",
        "--hostname", "sandbox", "--user", "1000:1001", "--workdir", "/workspace",
        "--memory", "1073741824", "--memory-swap", "1073741824", "--pids-limit", "99", "--shm-size", "16777216",
        "--ulimit", "fsize=536870912", "--ulimit", "nofile=1024", "--ulimit", "cpu=600", "--ulimit", "core=0",
        "--tmpfs", "/tmp:rw,exec,nosuid,nodev,mode=1777,size=67108864", "--log-driver", "none", "--entrypoint", "",
        "--env-file", str(tmp_path / "run" / "environment"),
        "--cidfile", str(tmp_path / "run" / "container"),
        "--mount", f"type=bind,source={tmp_path}/run/home,target=/tmp/home",
        "--mount", f"type=bind,source={tmp_path}/tree,target=/workspace",
        "img:1", "/bin/sh", "-c", "make test",
    ]  # fmt: skip


def test_podman_keeps_the_users_id(tmp_path: Path, record: RunRecord, run_request: SandboxRequest) -> None:
    sandbox = ContainerSandbox("podman", home=tmp_path / "home", image="img")
    line = sandbox.command_line(run_request, record, image="img", user=(1000, 1000))
    assert "keep-id" in line
    assert "label=disable" in line
    assert "keep-id" not in sandbox.command_line(run_request, record, image="img", user=(0, 0))


def test_paths_are_csv(tmp_path: Path, record: RunRecord, run_request: SandboxRequest) -> None:
    odd = Mount(source=Path('/a,b"c\nd'), target=PurePosixPath("/corral/x"))
    sandbox = ContainerSandbox("docker", home=tmp_path, image="img")
    line = sandbox.command_line(replace(run_request, mounts=(odd,)), record, image="img")
    assert 'type=bind,"source=/a,b""c\nd",target=/corral/x,readonly' in line


def test_git_metadata_is_covered(tmp_path: Path, record: RunRecord, run_request: SandboxRequest) -> None:
    (run_request.worktree / ".git").mkdir()
    line = ContainerSandbox("docker", home=tmp_path, image="i").command_line(run_request, record, image="i")
    assert f"type=bind,source={tmp_path}/run/no-git,target=/workspace/.git,readonly" in line


def test_no_value_is_in_the_command_line(tmp_path: Path, record: RunRecord, run_request: SandboxRequest) -> None:
    line = ContainerSandbox("docker", home=tmp_path, image="i").command_line(run_request, record, image="i")
    assert not any("b c" in word or "LD_PRELOAD" in word for word in line)
    text = _environment_file("docker", run_request)
    assert "A=b c\n" in text
    assert "PATH=" not in text


def test_a_variable_with_a_line_break_is_refused(run_request: SandboxRequest) -> None:
    with pytest.raises(SandboxFailed, match="line break") as caught:
        _environment_file("docker", replace(run_request, env={"A": "b\nEVIL=1"}))
    assert not caught.value.retryable


async def test_a_missing_engine_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxUnavailable, match="no podman program"):
        await ContainerSandbox("podman", home=tmp_path, image="i").check()


async def test_an_engine_that_does_not_answer_is_named(tmp_path: Path) -> None:
    program = tmp_path / "docker"
    program.write_text("#!/bin/sh\necho 'Cannot connect to the daemon' >&2; exit 1\n")
    program.chmod(0o755)
    with pytest.raises(SandboxUnavailable, match="Cannot connect"):
        await ContainerSandbox("docker", home=tmp_path, image="i", program=program).check()


@pytest.fixture
def ended_process() -> Iterator[int]:
    """Yield the pid of a process that has ended and that nobody has waited for."""
    with subprocess.Popen(["/bin/true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


async def test_an_ended_container_is_not_blamed_for_the_machines_cpu_time(
    tmp_path: Path, record: RunRecord, run_request: SandboxRequest, ended_process: int
) -> None:
    """Its engine may name its process still; the kernel then shows the root group's counters for it."""
    program = tmp_path / "podman"
    program.write_text(f"#!/bin/sh\necho {ended_process}\n")
    program.chmod(0o755)
    sandbox = ContainerSandbox("podman", home=tmp_path / "home", image="img", program=program)
    await sandbox.check()
    (record.folder / "container").write_text("0f3c" * 16)
    limits = replace(run_request.limits, cpu=timedelta(seconds=2))
    watcher = await sandbox._watcher(replace(run_request, limits=limits), record)
    assert watcher.look() is None
    assert watcher.cpu_seconds is not None
    assert watcher.cpu_seconds < 2
    await sandbox.close()


async def test_the_engine_is_asked_for_a_process_once_it_has_made_the_container(
    tmp_path: Path, record: RunRecord, run_request: SandboxRequest, ended_process: int
) -> None:
    asked = tmp_path / "asked"
    program = tmp_path / "docker"
    # At first the container is there and does not run yet.
    program.write_text(
        f'#!/bin/sh\n[ "$1" = inspect ] || exec echo 1\n[ -e {asked} ] && echo {ended_process} || echo 0\n'
        f'echo "$4" >> {asked}\n'
    )
    program.chmod(0o755)
    sandbox = ContainerSandbox("docker", home=tmp_path / "home", image="img", program=program)
    await sandbox.check()
    watching = asyncio.create_task(sandbox._watcher(run_request, record))
    await asyncio.sleep(0)
    assert not asked.exists()
    (record.folder / "container").write_text("0f3c" * 16)
    await watching
    assert asked.read_text().split() == ["0f3c" * 16] * 2
    await sandbox.close()
