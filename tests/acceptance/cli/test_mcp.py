"""``corral mcp``: a coding agent starts it and asks."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters
from tests.acceptance.cli.conftest import ROOT, Cli

from corral.client import Corral
from corral.interfaces.identity import TokenStore
from corral.testing.server import EmbeddedServer, free_port


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    (root / "tax.py").write_text("def sales_tax(amount):\n    return amount * 0.19\n")
    return root


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *filter(None, sys.path)]),
        "CORRAL_DATA_DIR": str(tmp_path / "data"),
    }


async def test_a_folder_is_searched_over_stdio(folder: Path, variables: dict[str, str]) -> None:
    arguments = ["-m", "corral", "mcp", str(folder)]
    async with Client(StdioServerParameters(command=sys.executable, args=arguments, env=variables)) as client:
        result = await client.call_tool("search_code", {"query": "sales_tax", "limit": 1})
        assert not result.is_error
        assert "tax.py" in json.dumps(result.structured_content)


async def test_the_index_of_a_folder_that_was_deleted_goes_when_another_one_is_served(
    folder: Path, variables: dict[str, str], tmp_path: Path
) -> None:
    other = shutil.copytree(folder, tmp_path / "other")

    async def ask(root: Path) -> set[str]:
        arguments = ["-m", "corral", "mcp", str(root)]
        async with Client(StdioServerParameters(command=sys.executable, args=arguments, env=variables)) as client:
            assert not (await client.call_tool("search_code", {"query": "sales_tax"})).is_error
        return {path.parent.parent.name for path in (tmp_path / "data" / "indexes").glob("*/*/CURRENT")}

    (first,) = await ask(folder)
    both = await ask(other)
    assert len(both) == 2
    shutil.rmtree(folder)
    assert await ask(other) == both - {first}


def test_a_folder_is_searched_over_http_until_told(folder: Path, variables: dict[str, str]) -> None:
    port = free_port()
    command = [sys.executable, "-m", "corral", "mcp", str(folder), "--http", str(port)]
    with subprocess.Popen(command, env=variables, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            _until_listening(port, process)
            answer = _call(port, "find_definition", {"name": "sales_tax"})
            assert "tax.py" in json.dumps(answer["result"])
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


async def test_projects_over_http_ask_for_a_token_once_there_is_one(
    variables: dict[str, str], corral_private_server: EmbeddedServer
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "corral", "mcp", "--http", str(port)]
    environment = {**variables, "REDIS_URL": corral_private_server.url}
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            _until_listening(port, process)
            arguments = {"project_id": "shop", "name": "sales_tax"}
            assert "no index yet" in json.dumps(_call(port, "find_definition", arguments))
            async with Corral(redis_url=corral_private_server.url) as corral:
                tokens = TokenStore(corral.redis, prefix=corral.namespace)
                token, _ = await tokens.create("ada", ["read"], projects=["shop"])
            until = time.monotonic() + 30
            while _status(port, None) != 401:
                assert time.monotonic() < until
                await asyncio.sleep(0.1)
            assert _status(port, f"Bearer {token}") == 200
            assert _status(port, "Bearer corral_x") == 401
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 0
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()


def _status(port: int, authorization: str | None) -> int:
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    if authorization is not None:
        headers["authorization"] = authorization
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/mcp", body, headers), timeout=30
        ) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def _until_listening(port: int, process: subprocess.Popen[str]) -> None:
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, process.stderr and process.stderr.read()
        signal.sigtimedwait([], 0.1)


def _call(port: int, tool: str, arguments: dict[str, Any]) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/mcp", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - ours
        return json.load(answer)


@pytest.mark.parametrize("missing", ["mcp", "tantivy"])
def test_a_missing_extra_is_one_line(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    for name in [
        one for one in sys.modules if one.partition(".")[0] == missing or one.startswith("corral.adapters.index")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)

    refused = cli("mcp", str(folder), app_too=False)

    assert refused.exit_code == 6, refused.output
    assert refused.stderr.count("\n") == 1
    assert "pip install 'corral[" in refused.stderr


def test_what_can_t_be_served_is_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = cli("mcp", str(tmp_path / "gone"), app_too=False)
    assert (gone.exit_code, gone.stderr.count("\n")) == (6, 1)
    assert "expected a folder" in gone.stderr
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = cli("mcp", "--http", str(taken.getsockname()[1]), app_too=False)
    assert (refused.exit_code, refused.stderr.count("\n")) == (6, 1)
    assert "choose another with --http" in refused.stderr
    monkeypatch.setenv("CORRAL_PORT", "none")
    wrong = cli("mcp", str(tmp_path), app_too=False)
    assert (wrong.exit_code, wrong.stderr.count("\n")) == (6, 1)
