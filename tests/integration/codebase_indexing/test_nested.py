"""Submodules and repositories inside repositories, where somebody has said that they belong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.integration.codebase_indexing.test_handler import job
from tests.support.repositories import commit, git

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import IndexName
from corral.jobs.codebase_indexing.build import BuildReport, build
from corral.jobs.codebase_indexing.building import ThreadBuilder
from corral.jobs.codebase_indexing.handler import CodebaseIndexingHandler
from corral.jobs.codebase_indexing.nested import NestedSource, same_repository, submodule_addresses, with_inner_folders
from corral.jobs.codebase_indexing.search import CodeSearch
from corral.jobs.codebase_indexing.source import folder_source
from corral.projects import Project
from corral.testing.reporter import RecordingReporter

NAME = IndexName("shop")


def repository(root: Path, **files: str) -> Path:
    root.mkdir(parents=True)
    for name, text in files.items():
        (root / f"{name}.py").write_text(text)
    git(root, "init", "-q", "-b", "main")
    commit(root)
    return root


def with_submodule(outer: Path, path: str, url: str, inner: Path) -> str:
    head = git(inner, "rev-parse", "HEAD")
    (outer / ".gitmodules").write_text(f'[submodule "{path}"]\n\tpath = {path}\n\turl = {url}\n')
    git(outer, "update-index", "--add", "--cacheinfo", f"160000,{head},{path}")
    git(outer, "add", ".gitmodules")
    git(outer, "commit", "-q", "-m", "submodule")
    return head


# --- jobs


@dataclass
class Mirror:
    path: Path


class World:
    """Registered projects, their repositories read where they are."""

    def __init__(self, *projects: Project) -> None:
        self.projects = {project.id: project for project in projects}
        self.asked: list[tuple[str, str | None]] = []

    async def get(self, project_id: str) -> Project:
        return self.projects[project_id]

    async def resolve(self, project: Project, rev: str | None = None) -> str:
        self.asked.append((project.id, rev))
        return git(Path(project.repository), "rev-parse", rev or project.default_branch)

    async def knows(self, project: Project, rev: str) -> bool:
        return rev in git(Path(project.repository), "branch", "--format=%(refname:short)").split()

    def mirror(self, project: Project) -> Mirror:
        return Mirror(Path(project.repository) / ".git")


def handler(world: World, store: LocalIndexStore) -> CodebaseIndexingHandler:
    return CodebaseIndexingHandler(world, world, ThreadBuilder(store, StaticEmbedder()), store)


def paths(store: LocalIndexStore, query: str) -> list[str]:
    search = CodeSearch(store, StaticEmbedder())
    try:
        return [hit.path for hit in search.search_now("shop", query)]
    finally:
        search.close()


async def test_a_submodule_that_the_registration_names_is_indexed_and_followed(
    tmp_path: Path, store: LocalIndexStore
) -> None:
    inner = repository(tmp_path / "library", shared="def shared_thing(): pass\n")
    outer = repository(tmp_path / "shop", main="def outer_thing(): pass\n")
    head = with_submodule(outer, "vendor/library", "../library", inner)
    world = World(
        Project(id="shop", repository=str(outer), submodules=("library",)), Project(id="library", repository=str(inner))
    )
    handle = handler(world, store)
    result = await handle(job(RecordingReporter()))
    assert (result.files, result.skipped.get("submodule")) == (2, None)
    assert ("library", head) in world.asked
    assert paths(store, "shared_thing")[0] == "vendor/library/shared.py"
    again = await handle(job(RecordingReporter()))
    assert again.reused == 2
    # The library moves on, and with it nothing before the outer repository does.
    (inner / "shared.py").write_text("def renamed_thing(): pass\n")
    commit(inner)
    assert (await handle(job(RecordingReporter()))).reused == 2
    with_submodule(outer, "vendor/library", "../library", inner)
    moved = await handle(job(RecordingReporter()))
    assert moved.reused == 1
    assert paths(store, "renamed_thing")[0] == "vendor/library/shared.py"
    git(outer, "rm", "-q", "--cached", "vendor/library")
    git(outer, "commit", "-q", "-m", "no submodule")
    gone = await handle(job(RecordingReporter()))
    assert gone.files == 1


async def test_a_repository_cannot_open_another_project_by_calling_it_a_submodule(
    tmp_path: Path, store: LocalIndexStore
) -> None:
    private = repository(tmp_path / "private", plans="def secret_plan(): pass\n")
    outer = repository(tmp_path / "shop", main="def outer_thing(): pass\n")
    with_submodule(outer, "lib", str(private), private)
    library = repository(tmp_path / "library", shared="def shared_thing(): pass\n")
    for submodules in ((), ("library",)):
        world = World(
            Project(id="shop", repository=str(outer), submodules=submodules),
            Project(id="private", repository=str(private)),
            Project(id="library", repository=str(library)),
        )
        result = await handler(world, store)(job(RecordingReporter()))
        assert (result.files, result.skipped["submodule"]) == (1, 1)
        assert "private" not in dict(world.asked)
    assert paths(store, "secret_plan") == []


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("../library.git", "https://forge.example/acme/library.git"),
        ("./inside", "https://forge.example/acme/shop.git/inside"),
        ("https://forge.example/other/x", "https://forge.example/other/x"),
    ],
)
def test_addresses_of_submodules(tmp_path: Path, url: str, absolute: str) -> None:
    inner = repository(tmp_path / "inner", a="a = 1\n")
    outer = repository(tmp_path / "outer", b="b = 1\n")
    with_submodule(outer, "lib", url, inner)
    head = git(outer, "rev-parse", "HEAD")
    assert submodule_addresses(outer / ".git", head, "https://forge.example/acme/shop.git") == {"lib": absolute}
    assert submodule_addresses(inner / ".git", "HEAD", "https://forge.example/acme/shop.git") == {}


def test_a_gitmodules_that_is_none_declares_nothing(tmp_path: Path) -> None:
    outer = repository(tmp_path / "outer", b="b = 1\n")
    secret = tmp_path / "secret.gitconfig"
    secret.write_text('[submodule "x"]\n\tpath = x\n\turl = /private\n')
    for text in ("[broken", "\0\xff" * 100, f"[include]\n\tpath = {secret}\n", '[submodule "x"]\n\tpath = x\n'):
        (outer / ".gitmodules").write_text(text, encoding="latin-1")
        head = commit(outer)
        assert submodule_addresses(outer / ".git", head, "/srv/shop") == {}


def test_which_addresses_are_one_repository() -> None:
    assert same_repository("https://Forge.example/a/b.git", "https://forge.example/a/b/")
    assert same_repository("/srv/a", "/srv/a/")
    assert not same_repository("/srv/a", "/srv/A")
    assert not same_repository("https://forge.example/a/b", "https://evil.example/a/b")
    assert not same_repository("ext::sh -c x", "https://forge.example/a/b")


# --- folders


def index(root: Path, store: LocalIndexStore) -> BuildReport:
    return build(with_inner_folders(root, folder_source(root)), store, NAME, StaticEmbedder())


def test_repositories_inside_a_folder_are_entered_when_asked_for(tmp_path: Path, store: LocalIndexStore) -> None:
    root = repository(tmp_path / "outer", main="def outer_thing(): pass\n")
    inner = repository(root / "tools" / "inner", deep="def deep_thing(): pass\n")
    done = index(root, store)
    assert (done.state.files, dict(done.state.skipped)) == (2, {})
    assert paths(store, "deep_thing")[0] == "tools/inner/deep.py"
    assert not index(root, store).changed
    (inner / "deep.py").write_text("def deeper_thing(): pass\n")
    changed = index(root, store)
    assert (changed.indexed, changed.reused) == (1, 1)
    assert paths(store, "deeper_thing")[0] == "tools/inner/deep.py"
    (root / "main.py").write_text("def outer_changed(): pass\n")
    assert index(root, store).indexed == 1
    (inner / "deep.py").unlink()
    assert index(root, store).removed == 1
    (inner / "last.py").write_text("def last_thing(): pass\n")
    assert index(root, store).state.files == 2
    closed = build(NestedSource(folder_source(root), {}), store, NAME, StaticEmbedder())
    assert (closed.state.files, dict(closed.state.skipped)) == (1, {"submodule": 1})


def test_an_inner_repositorys_git_is_never_asked(tmp_path: Path, store: LocalIndexStore) -> None:
    root = repository(tmp_path / "outer", main="def outer_thing(): pass\n")
    inner = repository(root / "inner", deep="def deep_thing(): pass\n")
    ran = tmp_path / "ran"
    for key in ("core.fsmonitor", "filter.x.clean", "filter.x.smudge", "core.sshCommand", "diff.external"):
        git(inner, "config", key, f"touch {ran}")
    (inner / ".gitattributes").write_text("* filter=x\n")
    (inner / "deep.py").write_text("def other_thing(): pass\n")
    assert index(root, store).state.files == 2
    assert not ran.exists()


@pytest.mark.parametrize("shape", ["file", "link", "folder_link"])
def test_git_files_and_links_that_point_elsewhere_lead_nowhere(
    tmp_path: Path, store: LocalIndexStore, shape: str
) -> None:
    private = repository(tmp_path / "private", plans="def secret_plan(): pass\n")
    root = repository(tmp_path / "outer", main="def outer_thing(): pass\n")
    inner = root / "inner"
    if shape == "folder_link":
        inner.symlink_to(private)
    else:
        inner.mkdir()
        (inner / "here.py").write_text("def here_thing(): pass\n")
        if shape == "file":
            (inner / ".git").write_text(f"gitdir: {private}/.git\n")
        else:
            (inner / ".git").symlink_to(private / ".git")
    index(root, store)
    assert paths(store, "secret_plan") == []
    known = LocalIndexStore(tmp_path / "indexes").open(NAME)
    assert known is not None
    assert not any("plans" in path for path in known.files())
    known.close()
    assert (private / "plans.py").exists()
