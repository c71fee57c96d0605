"""The command line in this process, and workers in processes of their own, on one server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from corral.interfaces.cli.app import app
from corral.testing import EmbeddedServer

ROOT = Path(__file__).parents[3]
APP = "tests.acceptance.cli.farm:corral"

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as one:
        yield one


@pytest.fixture
def environment(server: EmbeddedServer, corral_prefix: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the commands read: this test's own corner of the server."""
    variables = {"REDIS_URL": server.url, "CORRAL_PREFIX": corral_prefix, "CORRAL_SHUTDOWN_TIMEOUT": "PT1S"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    # The app module holds one Corral, which belongs to one event loop and one server: each command gets a new one.
    monkeypatch.delitem(sys.modules, APP.partition(":")[0], raising=False)
    monkeypatch.chdir(ROOT)
    return {**os.environ, **variables}


@pytest.fixture
def cli(environment: dict[str, str]) -> Cli:
    """Run a command; ``app=True`` with the farm's job types."""

    def run(*arguments: str, app_too: bool = True, stdin: str | None = None) -> Result:
        sys.modules.pop(APP.partition(":")[0], None)
        options = ("--app", APP) if app_too else ()
        return CliRunner().invoke(app, [*options, *arguments], input=stdin)

    return run


@pytest.fixture
def documents(cli: Cli) -> Callable[..., list[Any]]:
    """Run a command with ``--json`` and read what it answers."""

    def run(*arguments: str, app_too: bool = True) -> list[Any]:
        result = cli(*arguments, "--json", app_too=app_too)
        assert result.exit_code == 0, result.output
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run


@pytest.fixture
def worker(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A worker of the farm's queues, ready."""
    process = start_worker(environment)
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise


def start_worker(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    """Start ``corral worker`` and wait until it says that it serves."""
    process = subprocess.Popen(
        [sys.executable, "-m", "corral", "worker", "--app", APP, "--json", *arguments],
        env={**environment, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    assert json.loads(first)["event"] == "started", first
    return process
