"""The handler over a real mirror-like repository, the store on disk and a recording job."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.memory_redis import MemoryRedis
from tests.support.repositories import Repository, git

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import IndexName
from corral.adapters.workspace import Workspaces
from corral.commits import CommitStore
from corral.errors import SearchFailed, UnknownProject
from corral.jobs.codebase_indexing import build as build_module
from corral.jobs.codebase_indexing import building as building_module
from corral.jobs.codebase_indexing.building import Built, ThreadBuilder
from corral.jobs.codebase_indexing.handler import CodebaseIndexingHandler
from corral.jobs.codebase_indexing.payload import CodebaseIndexing
from corral.jobs.codebase_indexing.search import CodeSearch
from corral.projects import Project, ProjectStore
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

    async def knows(self, project: KnownProject, rev: str) -> bool:
        return rev in git(self.bare, "branch", "--format=%(refname:short)").split()

    def mirror(self, project: KnownProject) -> Mirror:
        return Mirror(self.bare)


def job(reporter: RecordingReporter, **data: object) -> Job[CodebaseIndexing]:
    payload = CodebaseIndexing.model_validate({"project_id": "shop", "user_id": "ada", **data})
    return Job(id="1", job_type="codebase-indexing", data=payload, _reporter=reporter)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "forge", {"src/add.py": "def add_numbers(a, b):\n    return a + b\n", "logo.png": "x"})


@pytest.fixture
def handle(repository: Repository, store: LocalIndexStore) -> CodebaseIndexingHandler:
    builder = ThreadBuilder(store, StaticEmbedder())
    return CodebaseIndexingHandler(Projects(), Mirrors(repository.bare), builder, store)


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


async def test_indexes_of_branches_that_are_gone_are_removed(
    repository: Repository, store: LocalIndexStore, tmp_path: Path
) -> None:
    redis = MemoryRedis()
    projects = ProjectStore(redis, prefix="corral:bull")
    project = Project(id="shop", repository=str(repository.bare))
    await projects.add(project)
    workspaces = Workspaces(data_dir=tmp_path / "data", commits=CommitStore(redis))
    handle = CodebaseIndexingHandler(projects, workspaces, ThreadBuilder(store, StaticEmbedder()), store)
    for branch in ("feature/gone", "feature/kept"):
        repository.commit({"src/sub.py": f"def subtract(): return {branch!r}\n"}, branch=branch)
    git(repository.clone, "tag", "v1", "main")
    git(repository.clone, "push", "--quiet", "origin", "v1")
    async with workspaces.checkout(project) as workspace:
        (workspace.path / "new.py").write_text("def made(): pass\n")
        await workspace.commit_all(branch="corral/t1", message="Make", author="Ada <a@b.c>", trailers={})
    indexed = ("feature/gone", "feature/kept", "v1", "corral/t1")
    for branch in indexed:
        await handle(job(RecordingReporter(), branch=branch))
    assert store.branches("shop") == sorted(indexed)

    git(repository.bare, "branch", "-D", "feature/gone")
    only_a_commit = await handle(job(RecordingReporter(), commit_id=git(repository.bare, "rev-parse", "main")))
    assert only_a_commit.files == 1
    assert "feature/gone" in store.branches("shop"), "nothing was fetched, so nothing is known to be gone"
    reporter = RecordingReporter()
    await handle(job(reporter))

    assert store.branches("shop") == sorted({"", *indexed} - {"feature/gone"})
    assert [line for line in reporter.log_lines if "gone" in line] == [
        "removed the index of the branch 'feature/gone', which is gone"
    ]


async def test_a_project_removed_while_it_is_indexed_leaves_no_index(
    repository: Repository, store: LocalIndexStore
) -> None:
    projects = ProjectStore(MemoryRedis(), prefix="corral:bull")
    await projects.add(Project(id="shop", repository=str(repository.bare)))

    class Removing(ThreadBuilder):
        async def build(self, *given: Any) -> Built:
            built = await super().build(*given)
            await projects.remove("shop")
            return built

    builder = Removing(store, StaticEmbedder())
    handle = CodebaseIndexingHandler(projects, Mirrors(repository.bare), builder, store)
    with pytest.raises(UnknownProject):
        await handle(job(RecordingReporter()))
    assert store.branches("shop") == []


async def test_a_search_lets_go_of_an_index_that_is_removed(
    handle: CodebaseIndexingHandler, store: LocalIndexStore
) -> None:
    await handle(job(RecordingReporter()))
    search = CodeSearch(store, StaticEmbedder())
    assert [hit.path for hit in await search.search("shop", "add")] == ["src/add.py"]
    store.remove("shop")
    with pytest.raises(SearchFailed, match="has no index yet"):
        await search.search("shop", "add")
    maps = Path("/proc/self/maps").read_text()
    assert str(store.folder(IndexName("shop"))) not in maps, "nothing keeps its disk"
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
