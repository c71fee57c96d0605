"""An index follows what a folder's files become, whatever happens to them and whenever it does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from tests.support.repositories import commit, git

from corral.adapters.embedder.hashed import HashedEmbedder
from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import IndexName
from corral.errors import GitFailed
from corral.jobs.codebase_indexing.build import BuildOptions, BuildReport, build
from corral.jobs.codebase_indexing.source import (
    CommitSource,
    Entry,
    FolderSource,
    Source,
    WorktreeSource,
    folder_source,
)

NAME = IndexName("shop")
LONG_AGO_S = 1_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "code"
    for name in ("cart", "tax", "till"):
        (made / name).mkdir(parents=True)
        (made / name / f"{name}.py").write_text(f"def {name}_thing():\n    return 1\n")
    return made


@pytest.fixture
def repository(root: Path) -> Path:
    git(root, "init", "-q", "-b", "main")
    commit(root)
    return root


@pytest.fixture
def index(store: LocalIndexStore, embedder: StaticEmbedder) -> Callable[..., BuildReport]:
    def run(source: Source | Path, **options: object) -> BuildReport:
        made = folder_source(source) if isinstance(source, Path) else source
        return build(made, store, NAME, embedder, BuildOptions(**options))  # type: ignore[arg-type]

    return run


def shown(store: LocalIndexStore) -> dict[str, str]:
    """Path to the name of the first definition."""
    reader = store.open(NAME)
    assert reader is not None
    found = {path: reader.symbols_of(path) for path in reader.files()}
    reader.close()
    return {path: symbols[0].name for path, symbols in found.items() if symbols}


# --- only some files


def test_a_first_job_for_some_files_does_not_claim_the_commit(
    repository: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    head = CommitSource(repository / ".git", commit(repository))
    assert index(head, files=("tax/tax.py",)).state.files == 1
    again = index(head, files=("tax/tax.py",))
    assert (again.changed, again.indexed, again.reused) == (False, 0, 1)
    done = index(head)
    assert (done.changed, done.indexed, done.reused) == (True, 2, 1)
    assert sorted(shown(store)) == ["cart/cart.py", "tax/tax.py", "till/till.py"]
    assert not index(head).changed


def test_a_file_of_another_commit_is_not_kept_for_good(
    repository: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    old = CommitSource(repository / ".git", commit(repository))
    (repository / "tax/tax.py").write_text("def later_thing(): pass\n")
    new = CommitSource(repository / ".git", commit(repository))
    index(new)
    index(old, files=("tax/tax.py",))
    assert shown(store)["tax/tax.py"] == "tax_thing"
    assert index(new).indexed == 1
    assert shown(store)["tax/tax.py"] == "later_thing"


def test_some_files_built_anew_leave_the_others(
    repository: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    head = CommitSource(repository / ".git", commit(repository))
    index(head)
    done = index(head, files=("tax/tax.py",), full=True)
    assert (done.changed, done.indexed, done.reused, done.state.files) == (True, 1, 2, 3)


def test_an_index_that_has_to_be_made_anew_is_made_whole_whatever_files_are_named(
    repository: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    head = CommitSource(repository / ".git", commit(repository))
    index(head)
    done = build(head, store, NAME, HashedEmbedder(dimension=8), BuildOptions(files=("tax/tax.py",)))
    assert (done.indexed, done.state.files) == (3, 3), "another model"
    assert not build(head, store, NAME, HashedEmbedder(dimension=8)).changed


# --- files that change while they are looked at


class Meddled:
    """Does something to the files between git's look at them and their being read, or right after that."""

    def __init__(self, source: Source, *, before: Callable[[], object] | None = None) -> None:
        self._source = source
        self._before = before
        self.after: Callable[[], object] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
        if self._before is not None:
            self._before()
        yield from self._source.read(entries, limit_bytes)
        if self.after is not None:
            self.after()


@pytest.fixture(params=[WorktreeSource, FolderSource])
def kind(request: pytest.FixtureRequest, root: Path) -> type[WorktreeSource | FolderSource]:
    if request.param is WorktreeSource:
        git(root, "init", "-q", "-b", "main")
        commit(root)
    return request.param  # type: ignore[no-any-return]


def test_a_file_written_after_it_was_read_is_read_again(
    kind: type[WorktreeSource | FolderSource], root: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    tax = root / "tax/tax.py"
    tax.write_text("def before_thing(): pass\n")
    meddled = Meddled(kind(root))
    meddled.after = lambda: tax.write_text("def after_thing(): pass\n")
    index(meddled)
    assert shown(store)["tax/tax.py"] == "before_thing"
    index(kind(root))
    assert shown(store)["tax/tax.py"] == "after_thing"


def test_a_file_overwritten_before_it_is_read_and_put_back_is_read_again(
    kind: type[WorktreeSource | FolderSource], root: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    tax = root / "tax/tax.py"
    original = tax.read_text()

    index(Meddled(kind(root), before=lambda: tax.write_text("def passing_thing(): pass\n")))
    assert shown(store)["tax/tax.py"] == "passing_thing"
    tax.write_text(original)
    index(kind(root))
    assert shown(store)["tax/tax.py"] == "tax_thing"


@pytest.mark.parametrize("becomes", ["nothing", "link", "folder"])
def test_a_file_that_goes_before_it_is_read_is_told_so_and_looked_at_again(
    kind: type[WorktreeSource | FolderSource],
    root: Path,
    store: LocalIndexStore,
    index: Callable[..., BuildReport],
    becomes: str,
) -> None:
    tax = root / "tax/tax.py"

    def go() -> None:
        tax.unlink()
        if becomes == "link":
            tax.symlink_to("/etc/passwd")
        elif becomes == "folder":
            tax.mkdir()

    done = index(Meddled(kind(root), before=go))
    assert dict(done.state.skipped) == {"unreadable": 1}
    assert dict(index(kind(root)).state.skipped) == ({"symlink": 1} if becomes == "link" else {})
    assert "tax/tax.py" not in shown(store)


def test_a_change_that_keeps_size_and_time_is_seen(
    kind: type[WorktreeSource | FolderSource], root: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    tax = root / "tax/tax.py"
    tax.write_text("def one_thing(): pass\n")
    os.utime(tax, (LONG_AGO_S, LONG_AGO_S))
    index(kind(root))
    tax.write_text("def two_thing(): pass\n")
    os.utime(tax, (LONG_AGO_S, LONG_AGO_S))
    index(kind(root))
    assert shown(store)["tax/tax.py"] == "two_thing"


# --- nothing to do


def test_files_that_were_just_written_are_looked_at_again_but_nothing_is_said_to_have_changed(
    kind: type[WorktreeSource | FolderSource], root: Path, index: Callable[..., BuildReport]
) -> None:
    (root / "new.py").write_text("def new_thing(): pass\n")
    (root / "link.py").symlink_to("new.py")
    assert index(kind(root)).changed
    again = index(kind(root))
    assert (again.changed, again.indexed, again.reused, again.removed) == (False, 0, 4, 0)


def test_a_folder_where_nothing_happened_is_not_read(
    root: Path, index: Callable[..., BuildReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("corral.jobs.codebase_indexing.folders.TICK_NS", -1_000_000_000)  # all was written long ago
    first = index(root)
    monkeypatch.setattr(FolderSource, "entries", None)  # a call would fail
    again = index(root)
    assert (again.changed, again.state.generation) == (False, first.state.generation)


# --- what git says


def test_a_sparse_checkout_shows_what_is_checked_out(
    repository: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    index(repository)
    git(repository, "sparse-checkout", "set", "cart")
    done = index(repository)
    assert (done.removed, dict(done.state.skipped)) == (2, {})
    assert sorted(shown(store)) == ["cart/cart.py"]
    assert not index(repository).changed
    (repository / "cart/more.py").write_text("def more_thing(): pass\n")
    commit(repository)
    assert index(repository).state.files == 2
    git(repository, "sparse-checkout", "set", "tax")
    assert index(repository).state.files == 1
    git(repository, "sparse-checkout", "disable")
    assert index(repository).state.files == 4
    assert not index(repository).changed


def test_a_repository_that_appears_inside_is_counted(repository: Path, index: Callable[..., BuildReport]) -> None:
    index(repository)
    (repository / "inner").mkdir()
    (repository / "inner/deep.py").write_text("def deep_thing(): pass\n")
    assert index(repository).state.files == 4
    git(repository / "inner", "init", "-q")
    done = index(repository)
    assert (done.state.files, dict(done.state.skipped)) == (3, {"submodule": 1})
    assert not index(repository).changed
    (repository / "inner/deep.py").unlink()
    git(repository, "-c", "core.bare=true", "config", "x.y", "z")
    for path in sorted((repository / "inner").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (repository / "inner").rmdir()
    assert dict(index(repository).state.skipped) == {}


@pytest.mark.parametrize("where", ["config", "config.worktree", "included", "linked worktree"])
def test_a_repositorys_settings_run_nothing(
    repository: Path, tmp_path: Path, index: Callable[..., BuildReport], where: str
) -> None:
    ran = tmp_path / "ran"
    (repository / ".gitattributes").write_text("*.py filter=x.y=z\n*.md filter=q\n")
    (repository / "read.md").write_text("# Read\n")
    commit(repository)
    keys = [f"filter.{name}.{key}" for name in ("x.y=z", "q") for key in ("clean", "smudge", "process")]
    settings = [(key, f"touch {ran}; cat") for key in ("core.fsmonitor", "core.sshCommand", "diff.external", *keys)]
    settings += [("filter.q.required", "true"), ("filter.x.y=z.required", "true")]
    target = repository / ".git/config"
    served = repository
    if where == "config.worktree":
        git(repository, "config", "extensions.worktreeConfig", "true")
        target = repository / ".git/config.worktree"
    elif where == "included":
        git(repository, "config", "include.path", str(tmp_path / "more"))
        target = tmp_path / "more"
    elif where == "linked worktree":
        served = tmp_path / "linked"
        git(repository, "worktree", "add", "-q", "-b", "other", str(served))
    for key, value in settings:
        git(repository, "config", "--file", str(target), key, value)
    (served / "tax/tax.py").write_text("def other_tax(): pass\n")
    (served / "read.md").write_text("# Read\n\nMore.\n")
    os.utime(served / "cart/cart.py", (1, 1))  # git has to look into it
    assert index(served).state.files == 4
    assert index(served).state.files == 4
    assert not ran.exists()


def test_missing_objects_are_not_fetched(repository: Path, tmp_path: Path, index: Callable[..., BuildReport]) -> None:
    ran = tmp_path / "ran"
    index(repository)
    old = git(repository, "rev-parse", "HEAD^{tree}")
    (repository / "tax/tax.py").write_text("def other_tax(): pass\n")
    commit(repository)
    for key, value in {
        "core.repositoryformatversion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.url": f"ext::touch {ran}",
        "remote.origin.promisor": "true",
        "protocol.ext.allow": "always",
    }.items():
        git(repository, "config", key, value)
    (repository / ".git/objects" / old[:2] / old[2:]).unlink()
    index(repository)
    assert not ran.exists()


def test_a_repository_that_is_none_is_not_taken_for_the_one_around_it(
    repository: Path, index: Callable[..., BuildReport]
) -> None:
    broken = repository / "broken"
    (broken / ".git").mkdir(parents=True)
    (broken / "a.py").write_text("def broken_thing(): pass\n")
    with pytest.raises(GitFailed, match=r"not a git repository.*broken/\.git"):
        index(broken)


def test_a_bare_repository_shows_its_head(
    repository: Path, tmp_path: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    bare = tmp_path / "bare.git"
    git(tmp_path, "clone", "-q", "--bare", str(repository), str(bare))
    assert index(bare).state.commit == git(repository, "rev-parse", "HEAD")
    assert shown(store)["tax/tax.py"] == "tax_thing"
    assert not index(bare).changed
    empty = tmp_path / "empty.git"
    git(tmp_path, "init", "-q", "--bare", str(empty))
    assert (index(empty).state.files, index(empty).changed) == (0, False)


# --- what the counts say


def test_a_tree_that_is_moved_is_taken_over_and_read_nowhere(
    repository: Path, store: LocalIndexStore, index: Callable[..., BuildReport]
) -> None:
    index(repository)
    (repository / "src").mkdir()
    git(repository, "mv", "cart", "tax", "till", "src")
    staged = index(repository)
    assert (staged.indexed, staged.reused, staged.removed) == (0, 3, 3)
    commit(repository)
    committed = index(repository)
    assert (committed.indexed, committed.reused, committed.removed) == (0, 3, 0), "they had gone before"
    assert sorted(shown(store)) == ["src/cart/cart.py", "src/tax/tax.py", "src/till/till.py"]
