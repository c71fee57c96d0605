"""What is particular to containers: bounds by the engine's cgroup, and the set-up's way out."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.container_engine import IMAGE

from corral.adapters.sandbox.container import ContainerSandbox
from corral.adapters.sandbox.port import MIB, RunEnding, SandboxLimits, SandboxRequest, SandboxResult
from corral.adapters.sandbox.proxy import AllowList

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def sandbox(podman: Path, home: Path, hosts: AllowList | None = None) -> AsyncIterator[ContainerSandbox]:
    made = ContainerSandbox("podman", home=home, image=IMAGE, program=podman, setup_hosts=hosts)
    yield made
    await made.close()


async def python(
    made: ContainerSandbox, tree: Path, script: str, *, network: bool = False
) -> tuple[SandboxResult, str]:
    said = bytearray()
    tree.mkdir(exist_ok=True)
    limits = SandboxLimits(memory_bytes=96 * MIB, processes=32, cpu=timedelta(seconds=2), tmp_bytes=8 * MIB)
    request = SandboxRequest(
        command=("python3", "-c", script), worktree=tree, timeout=timedelta(seconds=40), limits=limits, network=network
    )
    result = await made.run(request, said.extend)
    return result, said.decode(errors="replace")


FORKS = """
import os, time
while True:
    try:
        if os.fork() == 0:
            time.sleep(60)
    except OSError:
        time.sleep(0.1)
"""
SPINS = """
import os
for _ in range(3):
    if os.fork() == 0:
        break
while True:
    pass
"""


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        (FORKS, RunEnding.TOO_MANY_PROCESSES),
        ("x = []\nwhile True: x.append(bytearray(b'x') * 2**20)", RunEnding.OUT_OF_MEMORY),
        (SPINS, RunEnding.CPU_LIMIT),
    ],
    ids=["processes", "memory", "cpu"],
)
async def test_bounds_are_named(
    podman: Path, tmp_path: Path, script: str, ending: RunEnding, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    async with sandbox(podman, tmp_path / "runs") as made:
        result, output = await python(made, tmp_path / "tree", script)
        assert result.ending is ending, (result, output)
        assert result.detail
    assert not list(here.iterdir()), "something was left in the worker's own folder"


FETCH = """
import os, urllib.request
for name in ("no_proxy", "NO_PROXY"):
    os.environ.pop(name, None)
for address in ("http://127.0.0.1:{port}/simple", "http://other.example/simple"):
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({{"http": "http://127.0.0.1:3128"}}))
        print(opener.open(address, timeout=10).read().decode())
    except Exception as error:
        print(type(error).__name__, error)
"""


async def test_the_set_up_reaches_listed_hosts_and_no_other(podman: Path, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\npackage")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        hosts = AllowList([f"127.0.0.1:{port}"], networks=["127.0.0.1/32"])
        async with sandbox(podman, tmp_path / "runs", hosts) as made:
            script = FETCH.format(port=port)
            result, output = await python(made, tmp_path / "tree", script, network=True)
            assert result.exit_code == 0, output
            assert "package" in output.splitlines()
            assert "403" in output
            assert "[network: other.example:80 is not in CORRAL_SANDBOX_SETUP_HOSTS]" in output
            _, output = await python(made, tmp_path / "tree", script)
            assert "package" not in output
