"""``corral serve`` and ``corral stop-embedded``: what stays, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.acceptance.cli.conftest import ROOT, Cli


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
