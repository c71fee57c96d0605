"""Indexing by workers in processes of their own, of which one is killed and two work at once."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.repositories import Repository, git

from corral import Corral, JobType
from corral.errors import SearchFailed
from corral.jobs.codebase_indexing.payload import IndexingResult
from corral.projects import Project
from corral.settings import Settings
from corral.testing import EmbeddedServer

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FILES = 300
SOON = timedelta(seconds=100)


def module(number: int, word: str) -> str:
    return "".join(f"def {word}_{number}_{part}(a):\n    return a + {part}\n\n" for part in range(50))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    files = {f"src/m{number}.py": module(number, "old") for number in range(FILES)}
    files["src/a\nnewline.py"] = "def oddly_kept(): pass\n"
    files["src/deep.js"] = "(" * 3000 + ")" * 3000
    files["src/long.py"] = "x = '" + "ab cd " * 160_000 + "'\n"
    return Repository(tmp_path / "forge", files)


@pytest.fixture
def settings(corral_server: EmbeddedServer, corral_prefix: str, tmp_path: Path) -> Settings:
    return Settings(
        _env_file=None,
        redis_url=corral_server.url,
        prefix=corral_prefix,
        data_dir=tmp_path / "data",
        lease=timedelta(seconds=2),
    )


@pytest.fixture
async def corral(settings: Settings, repository: Repository) -> AsyncIterator[Corral]:
    async with Corral(settings=settings) as connected:
        await connected.parts.projects.add(Project(id="shop", repository=str(repository.bare)))
        yield connected


@contextmanager
def worker(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    assert settings.redis_url is not None
    environment = {
        **os.environ,
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "CORRAL_PREFIX": settings.prefix,
        "CORRAL_DATA_DIR": str(settings.data_dir),
        "CORRAL_LEASE": "PT2S",
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
    }
    command = [sys.executable, "-m", "corral", "worker", "--queues", "codebase-indexing"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=40)


def children(process: subprocess.Popen[bytes]) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in listed.split()]


async def paths(corral: Corral, query: str, branch: str = "") -> list[str]:
    return [hit.path for hit in await corral.parts.code_search.search("shop", query, branch=branch)]


async def test_a_worker_killed_in_the_middle_leaves_no_half_index_and_another_goes_on(
    corral: Corral, settings: Settings, repository: Repository
) -> None:
    home = settings.data_dir / "indexes/shop/@default"
    with worker(settings) as first:
        job = await corral.add_job(JobType.CODEBASE_INDEXING, {"projectId": "shop", "userId": "ada"})
        while not list(home.glob("w-*")):  # a writer has begun
            await asyncio.sleep(0.005)
        builders = children(first)
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert not (home / "CURRENT").exists()
    with pytest.raises(SearchFailed, match="has no index yet"):
        await paths(corral, "old_1_1")

    with worker(settings):
        result = await corral.wait_for_result(job, timeout=SOON)
    assert isinstance(result, IndexingResult)
    assert (result.files, result.languages["python"]) == (FILES + 2, FILES + 1)
    assert result.skipped == {"generated": 1}
    assert (await corral.get_job_status("codebase-indexing", job.id)).crashes == 1
    assert [pid for pid in builders if Path(f"/proc/{pid}").exists()] == [], "its processes ended with it"
    assert (await paths(corral, "old_7_1"))[0] == "src/m7.py"
    assert (await paths(corral, "oddly_kept"))[0] == "src/a\nnewline.py"
    assert [path.name for path in home.glob("[gw]-*")] == [f"g-{int((home / 'CURRENT').read_text()):08d}"]


async def test_two_workers_index_two_branches_again_and_again_while_it_is_searched(
    corral: Corral, settings: Settings, repository: Repository
) -> None:
    repository.commit({"src/m0.py": module(0, "new"), "src/only.py": "def only_here(): pass\n"}, branch="feature")
    tips = {"main": repository.tip(), "feature": git(repository.bare, "rev-parse", "feature")}
    with worker(settings), worker(settings):
        jobs = []
        for turn in range(3):
            for branch in tips:
                data = {"projectId": "shop", "userId": "ada", "branch": branch, "fullReindex": turn > 0}
                jobs.append((branch, await corral.add_job(JobType.CODEBASE_INDEXING, data)))
        first = await corral.wait_for_result(jobs[0][1], timeout=SOON)
        waiting = asyncio.gather(*(corral.wait_for_result(job, timeout=SOON) for _, job in jobs))
        asked = 0
        while not waiting.done():
            assert (await paths(corral, "old_7_1"))[0] == "src/m7.py", "a generation is whole or not there"
            asked += 1
        results = await waiting
    assert asked
    assert first.files == FILES + 2
    for (branch, _), result in zip(jobs, results, strict=True):
        assert result.commit == tips[branch]
        assert result.files == FILES + (3 if branch == "feature" else 2)
    assert (await paths(corral, "only_here", "feature"))[0] == "src/only.py"
    assert "src/only.py" not in await paths(corral, "only_here")
    assert (await paths(corral, "new_0_1", "feature"))[0] == "src/m0.py"
