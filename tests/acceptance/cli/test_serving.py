"""``corral serve`` and ``corral stop-embedded``: what stays, and how it ends."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.acceptance.cli.conftest import ROOT, Cli, start_worker


@pytest.fixture
def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        number: int = one.getsockname()[1]
        return number


@pytest.mark.parametrize("workers", ["--workers", "--no-workers"])
def test_the_server_answers_and_ends_when_told(environment: dict[str, str], port: int, workers: str) -> None:
    command = [sys.executable, "-m", "corral", "serve", "--port", str(port), workers]
    with subprocess.Popen(
        command,
        env={**environment, "PYTHONPATH": str(ROOT / "src")},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "serving on" in line:
                    break
            body = _get(f"http://127.0.0.1:{port}/healthz")
            assert body
            process.send_signal(signal.SIGTERM)
            said = process.stderr.read()
            assert process.wait(timeout=30) == 0, said
        finally:
            process.kill()
    assert "Traceback" not in said


def _get(url: str) -> bytes:
    for _ in range(100):  # it says that it serves just before it does
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - ours
                read: bytes = answer.read()
                return read
        except ConnectionRefusedError:
            continue
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            signal.sigtimedwait([], 0.1)
    raise AssertionError(f"{url} never answered")


def test_a_taken_port_is_told(cli: Cli, port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        result = cli("serve", "--port", str(port), app_too=False)
    assert result.exit_code == 6, result.output
    assert str(port) in result.stderr


def test_an_address_for_everybody_needs_a_token(cli: Cli, port: int) -> None:
    result = cli("serve", "--host", "0.0.0.0", "--port", str(port), app_too=False)  # noqa: S104 - that is the point
    assert result.exit_code == 6, result.output
    assert "token" in result.stderr


def test_the_embedded_server_is_stopped(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_URL")
    monkeypatch.setenv("CORRAL_DATA_DIR", str(tmp_path))
    assert cli("stats", app_too=False).exit_code == 0
    assert "stopped" in cli("stop-embedded", app_too=False).stdout
    assert "was not running" in cli("stop-embedded", app_too=False).stdout
    assert list(tmp_path.iterdir()), "the jobs stay"


def test_a_worker_tells_its_metrics(environment: dict[str, str], cli: Cli, port: int) -> None:
    process = start_worker(environment, "--queues", "greet", "--metrics-port", str(port))
    try:
        assert cli("add", "greet", "-d", '{"name": "Ada"}', "--watch").exit_code == 0
        lines = _get(f"http://127.0.0.1:{port}/metrics").decode().splitlines()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=15)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert 'corral_job_wait_seconds_count{queue="greet"} 1.0' in lines


def test_a_server_logs_in_the_form_of_its_setting(environment: dict[str, str], port: int) -> None:
    command = [sys.executable, "-m", "corral", "serve", "--port", str(port), "--no-workers", "--no-dashboard"]
    variables = {**environment, "PYTHONPATH": str(ROOT / "src"), "CORRAL_LOG_FORMAT": "json"}
    with subprocess.Popen(command, env=variables, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            first = json.loads(process.stderr.readline())
            _get(f"http://127.0.0.1:{port}/healthz")
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read().splitlines()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
    assert {"time", "level", "logger", "message"} <= set(first)
    assert all(json.loads(line) for line in rest)


def test_a_server_that_is_told_to_end_while_it_starts_ends(environment: dict[str, str], port: int) -> None:
    command = [sys.executable, "-m", "corral", "serve", "--port", str(port), "--no-workers"]
    variables = {**environment, "PYTHONPATH": str(ROOT / "src")}
    with subprocess.Popen(command, env=variables, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            process.stderr.readline()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) in {0, 130}
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
