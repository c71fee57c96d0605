"""Each example runs, as its own text says."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corral.testing import EmbeddedServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NODE_FOLDER = ROOT / "tests" / "node"


@pytest.fixture
def environment(corral_server: EmbeddedServer, corral_prefix: str, tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "REDIS_URL": corral_server.url,
        "CORRAL_PREFIX": corral_prefix,
        "CORRAL_DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "NODE_MODULES_FOLDER": str(NODE_FOLDER),
    }


def _run(environment: dict[str, str], *command: str) -> str:
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def _worker(environment: dict[str, str], *arguments: str) -> Iterator[None]:
    command = [sys.executable, "-m", "corral", "worker", "--json", *arguments]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["event"] == "started"
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def test_own_job_type(environment: dict[str, str]) -> None:
    printed = _run(environment, sys.executable, "examples/own_job_type.py")
    assert printed.splitlines() == ["6 words, most of all 'to'", "completed at 100 %: attempt 1 on 18 characters"]


def test_node_producer(environment: dict[str, str]) -> None:
    node = shutil.which("node")
    if node is None or not (NODE_FOLDER / "node_modules" / "bullmq").is_dir():
        pytest.skip("Node's BullMQ is not installed: make setup-dev")
    with _worker(environment, "--app", "examples.own_job_type:corral", "--queues", "word-count"):
        printed = _run(environment, node, "examples/node_producer.mjs", "to be or not to be")
    assert "6 words, most of all 'to'" in printed


def test_plain_script(environment: dict[str, str], tmp_path: Path) -> None:
    repository = tmp_path / "spans"
    _run(environment, sys.executable, "examples/sample_project/make_repository.py", str(repository))
    with _worker(environment, "--queues", "codebase-indexing"):
        printed = _run(environment, sys.executable, "examples/plain_script.py", str(repository), "parse a clock time")
    assert "codebase-indexing: 1 completed, 0 failed" in printed
    assert "spans/clock.py" in printed


def test_fastapi_server(environment: dict[str, str]) -> None:
    port = _free_port()
    command = [sys.executable, "-m", "uvicorn", "examples.fastapi_server:app", "--port", str(port)]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "Uvicorn running" in line:
                    break
            else:
                pytest.fail("the server ended at once")
            base = f"http://127.0.0.1:{port}"
            task = {"task_id": "1", "project_id": "nowhere", "prompt": "Add a thing"}
            assert _http(f"{base}/tasks", task) == (201, {"job_id": "task-1"})
            assert _http(f"{base}/tasks", task) == (201, {"job_id": "task-1"})
            status, shown = _http(f"{base}/tasks/1")
            assert status == 200
            assert shown["state"] in {"prioritized", "active", "delayed", "failed"}
            assert _http(f"{base}/tasks/2")[0] == 404
            assert _http(f"{base}/queue")[0] == 200
        finally:
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=40)
    assert process.returncode in {0, -signal.SIGTERM}
    assert "Application shutdown complete" in said


def _shell_blocks(page: str, section: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    body = text.split(f"\n### {section}\n")[1].split("\n### ")[0]
    return re.findall(r"^```sh\n(.*?)^```", body, re.MULTILINE | re.DOTALL)


def test_indexing_every_night_and_on_every_push_as_the_docs_say(environment: dict[str, str]) -> None:
    nightly, serving, pushed, elsewhere = _shell_blocks("search.md", "Every night, and on every push")
    port = _free_port()
    register = (
        "import asyncio\nfrom corral import Corral\nfrom corral.projects import Project\n"
        "from corral.interfaces.identity import TokenStore\n"
        "async def main():\n"
        "    async with Corral() as corral:\n"
        "        await corral.parts.projects.add(Project(id='shop', repository='https://github.com/acme/shop'))\n"
        "        tokens = TokenStore(corral.redis, prefix=corral.namespace)\n"
        "        print((await tokens.create('ada', ['submit', 'read']))[0])\n"
        "asyncio.run(main())"
    )
    token = _run(environment, sys.executable, "-c", register).strip()
    environment = {**environment, "TOKEN": token, "CORRAL_PORT": str(port), "PATH": _with_corral(environment)}
    assert "nightly-shop" in _run(environment, "bash", "-euc", nightly)

    secret = _run(environment, "bash", "-euc", serving.replace("corral serve", "printenv CORRAL_GITHUB_WEBHOOK_SECRET"))
    environment = {**environment, "CORRAL_GITHUB_WEBHOOK_SECRET": secret.strip()}
    command = [sys.executable, "-m", "corral", "serve", "--no-workers"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            _wait_until_it_answers(process, port)
            answered = _run(environment, "bash", "-euc", pushed.replace("8787", str(port)))
            job = json.loads(answered)["jobs"][0]
            assert {**job, "jobId": "1"} == json.loads(pushed.splitlines()[-1].removeprefix("# "))["jobs"][0]
            first, again = (
                json.loads(_run(environment, "bash", "-euc", elsewhere.replace("8787", str(port)))) for _ in range(2)
            )
            assert first["jobType"] == "codebase-indexing"
            assert first["id"] == again["id"], "it waits already"
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=40)


def _wait_until_it_answers(process: subprocess.Popen[str], port: int) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    pytest.fail("the server ended at once")


def _with_corral(environment: dict[str, str]) -> str:
    return f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"


def _http(url: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"content-type": "application/json"})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - ours
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, None


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
