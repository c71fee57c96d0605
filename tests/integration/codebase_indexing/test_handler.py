"""The handler over a real mirror-like repository, the store on disk and a recording job."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.repositories import Repository, git

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import IndexName
from corral.jobs.codebase_indexing import build as build_module
from corral.jobs.codebase_indexing import building as building_module
from corral.jobs.codebase_indexing.building import ThreadBuilder
from corral.jobs.codebase_indexing.handler import CodebaseIndexingHandler
from corral.jobs.codebase_indexing.payload import CodebaseIndexing
from corral.jobs.codebase_indexing.search import CodeSearch
from corral.queue.job import Job
from corral.testing.reporter import RecordingReporter


@dataclass
class KnownProject:
    id: str = "shop"
    default_branch: str = "main"


class Projects:
    async def get(self, project_id: str) -> KnownProject:
        return KnownProject(project_id)


@dataclass
class Mirror:
    path: Path


@dataclass
class Mirrors:
    bare: Path

    async def resolve(self, project: KnownProject, rev: str | None = None) -> str:
        return git(self.bare, "rev-parse", rev or project.default_branch)

    def mirror(self, project: KnownProject) -> Mirror:
        return Mirror(self.bare)


def job(reporter: RecordingReporter, **data: object) -> Job[CodebaseIndexing]:
    payload = CodebaseIndexing.model_validate({"project_id": "shop", "user_id": "ada", **data})
    return Job(id="1", job_type="codebase-indexing", data=payload, _reporter=reporter)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "forge", {"src/add.py": "def add_numbers(a, b):\n    return a + b\n", "logo.png": "x"})


@pytest.fixture
def store(tmp_path: Path) -> LocalIndexStore:
    return LocalIndexStore(tmp_path / "indexes")


@pytest.fixture
def handle(repository: Repository, store: LocalIndexStore) -> CodebaseIndexingHandler:
    return CodebaseIndexingHandler(Projects(), Mirrors(repository.bare), ThreadBuilder(store, StaticEmbedder()))


async def test_the_default_branch_is_indexed_and_the_result_tells_all(
    handle: CodebaseIndexingHandler, repository: Repository, store: LocalIndexStore
) -> None:
    reporter = RecordingReporter()
    result = await handle(job(reporter))
    assert result.commit == git(repository.bare, "rev-parse", "main")
    assert (result.files, result.chunks, result.reused, result.cost_usd) == (1, 1, 0, 0.0)
    assert result.languages == {"python": 1}
    assert result.skipped == {"unsupported": 1}
    assert result.embedder.startswith("static-")
    assert reporter.last_percent == 100
    assert "1 files" in reporter.log_lines[-1]
    search = CodeSearch(store, StaticEmbedder())
    hits = await search.search("shop", "add numbers")
    assert [hit.path for hit in hits] == ["src/add.py"]
    search.close()


async def test_a_branch_has_an_index_of_its_own(
    handle: CodebaseIndexingHandler, repository: Repository, store: LocalIndexStore
) -> None:
    await handle(job(RecordingReporter()))
    repository.commit({"src/sub.py": "def subtract_numbers(a, b):\n    return a - b\n"}, branch="feature")
    result = await handle(job(RecordingReporter(), branch="feature"))
    assert (result.files, result.reused) == (2, 1)
    search = CodeSearch(store, StaticEmbedder())
    assert [hit.path for hit in await search.search("shop", "subtract", branch="feature")] == ["src/sub.py"]
    assert await search.search("shop", "subtract") == []
    assert [hit.path for hit in await search.search("shop", "add", branch="never-indexed")] == ["src/add.py"]
    search.close()


async def test_a_cancelled_job_leaves_the_index_as_it_was(
    handle: CodebaseIndexingHandler,
    repository: Repository,
    store: LocalIndexStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await handle(job(RecordingReporter()))
    repository.commit({"src/add.py": "def never_published(): pass\n"})
    loop = asyncio.get_running_loop()
    building, released = asyncio.Event(), threading.Event()
    really_build = build_module.build

    def slow_build(*args: object, **options: object) -> object:
        loop.call_soon_threadsafe(building.set)
        released.wait(30)
        return really_build(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(building_module, "build", slow_build)
    running = asyncio.create_task(handle(job(RecordingReporter())))
    await building.wait()
    running.cancel()
    await asyncio.sleep(0)
    released.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    reader = store.open(IndexName("shop"))
    assert reader is not None
    assert reader.state.commit != git(repository.bare, "rev-parse", "main")
    reader.close()
