from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.memory_redis import MemoryRedis

from corral.adapters.sandbox.bubblewrap import BubblewrapSandbox
from corral.adapters.sandbox.port import MIB, SandboxLimits
from corral.adapters.sandbox.proxy import AllowList
from corral.jobs.test_execution.artifacts import RedisArtifacts
from corral.jobs.test_execution.report import TestReport
from corral.jobs.test_execution.runner import TestRunner


@pytest.fixture
def allowed() -> AllowList:
    return AllowList()


@pytest.fixture
def artifacts() -> RedisArtifacts:
    return RedisArtifacts(MemoryRedis())


@pytest.fixture
async def runner(tmp_path: Path, allowed: AllowList, artifacts: RedisArtifacts) -> AsyncIterator[TestRunner]:
    sandbox = BubblewrapSandbox(home=tmp_path / "data" / "sandbox" / "runs", setup_hosts=allowed)
    limits = SandboxLimits(memory_bytes=512 * MIB)
    made = TestRunner(sandbox, data_dir=tmp_path / "data", default_limits=limits, artifacts=artifacts)
    yield made
    await made.close()
    assert not list((tmp_path / "data" / "sandbox").glob("*/*/*"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    return folder


Run = Callable[..., Any]


@pytest.fixture
def run(runner: TestRunner, tree: Path) -> Run:
    async def run(command: str, **options: Any) -> TestReport:
        options = {"commit": "c0ffee", "project_id": "demo", "timeout": timedelta(seconds=60), **options}
        return await runner.run(tree, command=command, **options)

    return run
