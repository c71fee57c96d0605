"""pip and npm install from a registry on the host's loopback, through the sandbox's proxy."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.package_registry import WORD, Registry, serving

from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox
from corral.adapters.sandbox.proxy import AllowList
from corral.errors import Unrecoverable
from corral.jobs.test_execution.report import TestReport
from corral.jobs.test_execution.runner import TestRunner

pytestmark = pytest.mark.slow

PIP = "python3 -m pip install --quiet --require-hashes --target vendor -r requirements.txt"
PIP_TEST = "PYTHONPATH=vendor python3 -c 'import greeting; print(greeting.WORD)'"
NPM_TEST = "node -p 'require(\"greeting\")'"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as served:
        yield served


@pytest.fixture
async def runner(registry: Registry, tmp_path: Path) -> AsyncIterator[TestRunner]:
    allowed = AllowList([registry.host], networks=["127.0.0.2/32"])
    sandbox = BubblewrapSandbox(home=tmp_path / "data" / "sandbox" / "runs", setup_hosts=allowed)
    addresses = {
        "PIP_INDEX_URL": f"{registry.address}/simple",
        "PIP_TRUSTED_HOST": "127.0.0.2",
        "PIP_RETRIES": "0",
        "npm_config_registry": f"{registry.address}/npm/",
        "npm_config_fetch_retries": "0",
    }
    made = TestRunner(sandbox, data_dir=tmp_path / "data", setup_env=addresses)
    yield made
    await made.close()


async def run(runner: TestRunner, tree: Path, set_up: str, command: str, **options: Any) -> TestReport:
    return await runner.run(
        tree, command=command, setup_command=set_up, network="setup", commit="c", project_id="demo",
        timeout=timedelta(seconds=60), **options,
    )  # fmt: skip


def python_project(tree: Path, registry: Registry) -> Path:
    tree.mkdir()
    (tree / "requirements.txt").write_text(f"greeting==1.0 --hash=sha256:{registry.wheel_hash}\n")
    return tree


def node_project(tree: Path, registry: Registry) -> Path:
    tree.mkdir()
    about = {"name": "demo", "version": "1.0.0", "dependencies": {"greeting": "1.0.0"}}
    (tree / "package.json").write_text(json.dumps(about))
    packages = {"": about, "node_modules/greeting": {"version": "1.0.0", "integrity": registry.integrity}}
    lock = {**about, "lockfileVersion": 3, "requires": True, "packages": packages}
    (tree / "package-lock.json").write_text(json.dumps(lock))
    return tree


async def test_pip(runner: TestRunner, registry: Registry, tmp_path: Path) -> None:
    first = await run(runner, python_project(tmp_path / "one", registry), PIP, PIP_TEST)
    assert (first.output_tail, first.setup_cached) == (f"{WORD}\n", False)
    assert registry.asked
    registry.asked.clear()
    second = await run(runner, python_project(tmp_path / "two", registry), PIP, PIP_TEST)
    assert (second.output_tail, second.setup_cached) == (f"{WORD}\n", True)
    assert registry.asked == [], "nothing is fetched again"
    assert second.setup_seconds < first.setup_seconds
    write = "echo evil > vendor/greeting.py; rm -rf vendor; " + PIP_TEST
    third = await run(runner, python_project(tmp_path / "three", registry), PIP, write)
    assert third.output_tail.endswith(f"{WORD}\n"), "what is shared is read-only"


async def test_npm_ci(runner: TestRunner, registry: Registry, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("no npm here (scripts/setup.sh dev installs it)")
    command = "npm ci --no-audit --no-fund"
    first = await run(runner, node_project(tmp_path / "one", registry), command, NPM_TEST)
    assert (first.output_tail.splitlines()[-1], first.setup_cached) == (WORD, False)
    registry.asked.clear()
    second = await run(runner, node_project(tmp_path / "two", registry), command, NPM_TEST)
    assert (second.output_tail, second.setup_cached) == (f"{WORD}\n", True)
    assert registry.asked == []


async def test_jobs_of_one_project_install_once(runner: TestRunner, registry: Registry, tmp_path: Path) -> None:
    trees = [python_project(tmp_path / name, registry) for name in ("one", "two", "three")]
    reports = await asyncio.gather(*[run(runner, tree, PIP, PIP_TEST) for tree in trees])
    assert [report.output_tail for report in reports] == [f"{WORD}\n"] * 3
    assert sorted(report.setup_cached for report in reports) == [False, True, True]
    assert sum(path.endswith(".whl") for path in registry.asked) == 1


async def test_other_registries_are_refused(runner: TestRunner, registry: Registry, tmp_path: Path) -> None:
    lines: list[str] = []

    async def on_output(batch: list[str]) -> None:
        lines.extend(batch)

    tree = python_project(tmp_path / "one", registry)
    with pytest.raises(Unrecoverable) as caught:
        await run(runner, tree, f"{PIP} --index-url https://other.example/simple", PIP_TEST, on_output=on_output)
    assert caught.value.reason == "setup_failed"
    assert any("other.example:443 is not in CORRAL_SANDBOX_SETUP_HOSTS" in line for line in lines)
    assert registry.asked == []
