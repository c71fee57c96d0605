"""From a prompt to a pull request with the real local model, as ``make run`` does it.

The model (1.1 GB) is kept in the data folder of whoever runs the tests, and downloaded when it is not there.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corral.wire.embedded import stop_embedded

ROOT = Path(__file__).parents[2]
SAMPLE = "demo-spans"

pytestmark = [pytest.mark.slow, pytest.mark.model]


@pytest.fixture
def environment(tmp_path: Path, kept_data_dir: Path) -> Iterator[dict[str, str]]:
    """A data folder of the test's own, but for the models."""
    kept = kept_data_dir / "models"
    kept.mkdir(parents=True, exist_ok=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "models").symlink_to(kept, target_is_directory=True)
    yield {**os.environ, "CORRAL_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(ROOT / "src")}
    asyncio.run(stop_embedded(tmp_path / "data"))


def _git(repository: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(repository), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.timeout(1500)  # the first run downloads; later ones take about a minute on two idle cores
def test_a_prompt_becomes_a_pull_request(environment: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "corral", "demo", "--json"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    status: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    result = status["result"]
    assert status["state"] == "completed"
    assert [step["state"] for step in result["steps"]] == ["completed"] * 4
    assert result["tests"]["passed"]
    assert result["tests"]["total"] > 0
    assert result["indexing"]["chunks"] > 0

    repository = tmp_path / "data" / "demo" / f"{SAMPLE}.git"
    request = result["pullRequest"]
    assert (request["state"], request["created"]) == ("open", True)
    assert _git(repository, "rev-parse", request["sourceBranch"]) == request["head"]
    assert "+def " in _git(repository, "diff", request["base"], request["head"])
    assert _git(repository, "log", "-1", "--format=%an", "main") != "Corral", "the target branch stays as it was"


@pytest.mark.timeout(1500)
def test_an_interrupted_demo_leaves_no_job_behind(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "corral", "demo"]
    with subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if "code-generation" in line:
                    break
            process.send_signal(signal.SIGTERM)
            process.stderr.read()
            assert process.wait(timeout=60) == 130
        finally:
            process.kill()
    stats = subprocess.run(
        [sys.executable, "-m", "corral", "stats", "--json"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for queue in map(json.loads, stats.stdout.splitlines()):
        assert queue["waiting"] + queue["active"] + queue["delayed"] == 0, queue
