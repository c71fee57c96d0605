"""Indexing real git repositories, bare and checked out, through the store on disk."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.repositories import commit, git

from corral.adapters.embedder.hashed import HashedEmbedder
from corral.adapters.embedder.port import Embedded, Passage
from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import Filters, IndexName
from corral.errors import GitFailed, SearchFailed
from corral.jobs.codebase_indexing import git_program
from corral.jobs.codebase_indexing import source as source_module
from corral.jobs.codebase_indexing.build import BuildOptions, BuildReport, build
from corral.jobs.codebase_indexing.search import CodeSearch, Neighbourhood
from corral.jobs.codebase_indexing.source import (
    CommitSource,
    Entry,
    FolderSource,
    Source,
    WorktreeSource,
    folder_source,
)

NAME = IndexName("shop")
FILES = {
    "src/cart.py": "class Cart:\n    def add_item(self, article):\n        self.items.append(article)\n",
    "src/tax.py": "from src.cart import Cart\n\n\ndef sales_tax(cart: Cart):\n    return cart.total * 0.19\n",
    "tests/test_tax.py": "from src.tax import sales_tax\n\n\ndef test_sales_tax():\n    assert sales_tax(1)\n",
    "README.md": "# Shop\n\nSells things.\n",
}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for path, text in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    git(root, "init", "-q", "-b", "main")
    commit(root)
    return root


@pytest.fixture
def search(store: LocalIndexStore, embedder: StaticEmbedder) -> Iterator[CodeSearch]:
    made = CodeSearch(store, embedder)
    yield made
    made.close()


@pytest.fixture(params=["commit", "worktree"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def source_of(kind: str, root: Path) -> Source:
    if kind == "commit":
        return CommitSource(root / ".git", commit(root))
    return WorktreeSource(root)


def run(source: Source, store: LocalIndexStore, embedder: StaticEmbedder, **options: object) -> BuildReport:
    return build(source, store, NAME, embedder, BuildOptions(**options))  # type: ignore[arg-type]


def paths(search: CodeSearch, query: str) -> list[str]:
    return [hit.path for hit in search.search_now("shop", query)]


def test_a_repository_is_indexed_and_answers(
    kind: str, repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    done = run(source_of(kind, repository), store, embedder)
    assert (done.state.files, done.indexed, done.reused) == (4, 4, 0)
    assert dict(done.state.languages) == {"python": 3, "markdown": 1}
    hit = search.search_now("shop", "how is tax computed")[0]
    assert (hit.path, hit.symbol, hit.kind, hit.language) == ("src/tax.py", "sales_tax", "function", "python")
    assert hit.text.startswith("from src.cart") or hit.text.startswith("def sales_tax")
    assert "tax" in hit.why
    assert paths(search, "Cart.add_item")[0] == "src/cart.py"
    assert search.search_now("shop", "tax", filters=Filters(paths=("tests/",)))[0].path == "tests/test_tax.py"
    assert paths(search, "   ") == []


def test_a_hit_is_told_under_the_definition_that_was_asked_for(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    (repository / "src/duty.py").write_text(
        "def first_duty(): pass\n\nclass Duty:\n    def collectDuty(self): pass\n\ndef last_duty(): pass\n"
    )
    run(source_of("commit", repository), store, embedder)

    def told(query: str, *, kinds: frozenset[str] = frozenset()) -> tuple[str, str, str, int]:
        hits = search.search_now("shop", query, filters=Filters(kinds=kinds))
        hit = next(hit for hit in hits if "duty" in hit.path)
        return hit.symbol, hit.kind, hit.why.split(";")[0], hit.start_line

    assert told("first_duty") == ("first_duty", "function", "defines first_duty", 1)
    assert told("last_duty") == ("last_duty", "function", "defines last_duty", 1)
    assert told("collectDuty") == ("Duty.collectDuty", "method", "defines Duty.collectDuty", 1)
    assert told("duty", kinds=frozenset({"method"}))[:2] == ("Duty.collectDuty", "method")
    assert told("duty", kinds=frozenset({"class"}))[:2] == ("Duty", "class")
    assert told("what is a duty")[0] == "first_duty", "nothing is named: its first definition"


def test_nothing_is_done_when_nothing_changed(
    kind: str, repository: Path, store: LocalIndexStore, embedder: StaticEmbedder
) -> None:
    first = run(source_of(kind, repository), store, embedder)
    same = WorktreeSource(repository) if kind == "worktree" else CommitSource(repository / ".git", first.state.commit)
    again = run(same, store, embedder)
    assert not again.changed
    assert again.state.generation == first.state.generation
    assert again.reused == 4


def test_changes_renames_and_deletes(
    kind: str, repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(source_of(kind, repository), store, embedder)
    (repository / "src/tax.py").write_text("def value_added_duty(cart):\n    return 7\n")
    (repository / "src/cart.py").rename(repository / "src/basket.py")
    (repository / "README.md").unlink()
    (repository / "src/new.py").write_text("def brand_new_thing():\n    return 1\n")
    done = run(source_of(kind, repository), store, embedder)
    assert (done.indexed, done.reused, done.removed, done.state.files) == (2, 2, 2, 4)
    assert paths(search, "value_added_duty") == ["src/tax.py"]
    assert (
        search.search_now("shop", "sales_tax", filters=Filters(paths=("src/tax.py",)))[0].symbol == "value_added_duty"
    )
    assert paths(search, "add_item") == ["src/basket.py"]
    assert paths(search, "basket") == ["src/basket.py"]
    assert paths(search, "brand_new_thing")[0] == "src/new.py"


def test_a_rename_costs_no_embedding(
    repository: Path,
    store: LocalIndexStore,
    embedder: StaticEmbedder,
    search: CodeSearch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(CommitSource(repository / ".git", commit(repository)), store, embedder)
    before = {hit.symbol: hit for hit in search.search_now("shop", "item")}
    git(repository, "mv", "src/cart.py", "src/moved.py")
    monkeypatch.setattr(embedder, "embed", None)  # a call would fail
    done = run(CommitSource(repository / ".git", commit(repository)), store, embedder)
    assert (done.indexed, done.reused) == (0, 4)
    hit = next(hit for hit in search.search_now("shop", "item") if hit.path == "src/moved.py")
    assert hit.text == before[hit.symbol].text


@pytest.mark.parametrize(("names", "symbols"), [(("a.js", "a.py"), ["thing"]), (("a.py", "a.txt"), [])])
def test_a_rename_into_another_language_is_cut_as_that_language(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, names: tuple[str, str], symbols: list[str]
) -> None:
    old, new = names
    (repository / old).write_text("def thing():\n    return 1\n")
    run(WorktreeSource(repository), store, embedder)
    (repository / old).rename(repository / new)
    run(WorktreeSource(repository), store, embedder)
    reader = store.open(NAME)
    assert reader is not None
    assert [symbol.name for symbol in reader.symbols_of(new)] == symbols
    assert [chunk.defines for chunk in reader.file_chunks(new)] == [bool(symbols)]
    reader.close()


def test_a_file_that_was_only_touched_costs_nothing(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    dirty = repository / "src/tax.py"
    dirty.write_text("def dirty_tax(): pass\n")
    run(WorktreeSource(repository), store, embedder)
    os.utime(dirty, ns=(1, 1))
    os.utime(repository / "src/cart.py", ns=(1, 1))
    read: list[str] = []

    class Watched(WorktreeSource):
        def read(self, entries: Iterable[Entry], limit_bytes: int) -> Iterator[tuple[Entry, bytes | None]]:
            wanted = list(entries)
            read.extend(entry.path for entry in wanted)
            return super().read(wanted, limit_bytes)

    done = run(Watched(repository), store, embedder)
    assert (done.indexed, read) == (0, []), "another time, but git's hash is what it was"
    dirty.write_text("def other_tax(): pass\n")  # of the same size
    os.utime(dirty, ns=(2, 2))
    assert run(Watched(repository), store, embedder).indexed == 1
    assert read == ["src/tax.py"]
    assert paths(search, "other_tax")[:1] == ["src/tax.py"]


class Priced(HashedEmbedder):
    """Another model, that wants a cent for each piece of code."""

    def embed(self, passages: Sequence[Passage]) -> Embedded:
        return replace(super().embed(passages), cost_usd=0.01 * len(passages))


def test_another_model_builds_beside_the_old_index_and_its_price_is_told(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    first = run(WorktreeSource(repository), store, embedder)
    asked: list[tuple[str, list[str]]] = []

    def ask(_done: int, _total: int) -> None:
        reader = store.open(NAME)
        assert reader is not None
        asked.append((reader.state.embedder, paths(search, "how is tax computed")))
        reader.close()

    other = Priced(dimension=8)
    done = build(WorktreeSource(repository), store, NAME, other, report=ask)

    assert asked
    assert all(name == embedder.name and "src/tax.py" in found for name, found in asked), "the old one answers"
    assert (done.indexed, done.reused, done.state.embedder, done.state.dimension) == (4, 0, other.name, 8)
    assert done.cost_usd == pytest.approx(0.01 * first.state.chunks)
    assert paths(search, "how is tax computed")[0] == "src/tax.py", "vectors of another model: by words alone"
    again = build(WorktreeSource(repository), store, NAME, other)
    assert (again.changed, again.cost_usd) == (False, 0.0)
    smaller = build(WorktreeSource(repository), store, NAME, Priced(dimension=4))
    assert (smaller.indexed, smaller.state.dimension) == (4, 4), "a change of the dimension alone too"
    with contextlib.closing(CodeSearch(store, other)) as of_before:
        assert paths(of_before, "how is tax computed")[0] == "src/tax.py", "a search that still has the longer vectors"


def test_a_dirty_worktree_is_followed_and_comes_clean_again(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(WorktreeSource(repository), store, embedder)
    original = (repository / "src/cart.py").read_text()
    (repository / "src/cart.py").write_text("def half_written():\n    pass\n")
    (repository / "untracked.py").write_text("def untracked_thing():\n    pass\n")
    assert run(WorktreeSource(repository), store, embedder).indexed == 2
    assert not run(WorktreeSource(repository), store, embedder).changed
    assert paths(search, "half_written") == ["src/cart.py"]
    (repository / "src/cart.py").write_text(original)
    (repository / "untracked.py").unlink()
    done = run(WorktreeSource(repository), store, embedder)
    assert (done.indexed, done.removed) == (1, 1)
    assert paths(search, "half_written") == []
    assert paths(search, "add_item") == ["src/cart.py"]


def test_ignore_rules_apply_and_are_lifted(
    kind: str, repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    (repository / ".corralignore").write_text("tests/\n")
    (repository / ".gitignore").write_text("build/\n")
    (repository / "build").mkdir()
    (repository / "build/out.py").write_text("def built_thing(): pass\n")
    done = run(source_of(kind, repository), store, embedder)
    assert done.state.skipped["ignored"] == 1
    assert "tests/test_tax.py" not in paths(search, "test_sales_tax")
    assert "build/out.py" not in paths(search, "built_thing")
    (repository / ".corralignore").write_text("src/\n")
    run(source_of(kind, repository), store, embedder)
    assert paths(search, "test_sales_tax") == ["tests/test_tax.py"]
    assert "src/cart.py" not in paths(search, "add_item")


def test_hostile_contents_are_survived(  # noqa: PLR0917 - fixtures
    kind: str, repository: Path, tmp_path: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    outside = tmp_path / "outside.py"
    outside.write_text("def secret_outside(): pass\n")
    (repository / "link.py").symlink_to(outside)
    (repository / "linked").symlink_to(tmp_path)
    (repository / "new\nline 'quoted'.py").write_text("def odd_named(): pass\n")
    (repository / os.fsdecode(b"latin\xe9.py")).write_text("def latin_named(): pass\n")
    (repository / "nested.json").write_text("[" * 3000 + "]" * 3000)
    (repository / "nested.js").write_text("(" * 3000 + ")" * 3000)
    (repository / "long.py").write_text("x = '" + "a b " * 240_000 + "'\n")
    (repository / "wide.py").write_bytes("def wide_thing(): pass\n".encode("utf-16"))
    (repository / "old.py").write_bytes("# caf\xe9\ndef old_thing(): pass\n".encode("latin-1"))
    (repository / "image.py").write_bytes(b"\x89PNG\0\0\1\2")
    (repository / "huge.py").write_text("x = 1\n" * 400_000)
    (repository / "id_rsa").write_text("key")
    (repository / "leak.py").write_text("def leaky():\n    return 'ghp_" + "a1B2" * 9 + "'\n")
    done = run(source_of(kind, repository), store, embedder)
    assert {"symlink", "binary", "too_large", "secret", "generated"} <= done.state.skipped.keys()
    assert paths(search, "secret_outside") == []
    assert paths(search, "odd_named")[:1] == ["new\nline 'quoted'.py"]
    assert paths(search, "latin_named")[:1] == ["latin\\xe9.py"]
    assert paths(search, "wide_thing")[:1] == ["wide.py"]
    assert paths(search, "old_thing")[:1] == ["old.py"]
    assert "ghp_" not in search.search_now("shop", "leaky")[0].text
    assert not run(WorktreeSource(repository), store, embedder).changed or kind == "commit"


def test_fifos_sockets_and_devices_are_neither_opened_nor_waited_for(
    tmp_path: Path, repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    for root in (repository, tmp_path / "plain"):
        root.mkdir(exist_ok=True)
        (root / "a.py").write_text("def plain_thing(): pass\n")
        os.mkfifo(root / "pipe.py")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.path.relpath(root / "socket.py"))
        (root / "zero.py").symlink_to("/dev/zero")
        with contextlib.suppress(PermissionError):  # only the superuser can make one
            os.mknod(root / "device.py", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        done = run(folder_source(root), store, embedder, full=True)
        assert "device.py" not in paths(search, "device")
        assert paths(search, "plain_thing")[0] == "a.py"
        assert done.state.skipped.get("symlink") == 1


def test_a_tree_that_stands_for_endless_files_is_refused(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_program, "_MAX_LIST_BYTES", 1_000_000)
    monkeypatch.setattr(git_program, "_MAX_LIST_MEMORY_BYTES", 50_000_000)
    inside = f"100644 blob {git(repository, 'hash-object', '-w', 'README.md')}"
    for _ in range(6):  # a hundred to the sixth, in six objects
        listing = "".join(f"{inside}\tentry{number}.py\n" for number in range(100))
        made = subprocess.run(
            ["git", "-C", str(repository), "mktree"], input=listing, capture_output=True, text=True, check=True
        )
        inside = f"040000 tree {made.stdout.strip()}"
    bomb = git(repository, "commit-tree", made.stdout.strip(), "-m", "bomb")
    before = run(CommitSource(repository / ".git", commit(repository)), store, embedder)
    for options in ({}, {"full": True}):
        with pytest.raises(GitFailed, match="too many files") as refused:
            run(CommitSource(repository / ".git", bomb), store, embedder, **options)
        assert (refused.value.reason, refused.value.retryable) == ("too_many_files", False)
    reader = store.open(NAME)
    assert reader is not None
    assert reader.state.generation == before.state.generation
    reader.close()


def test_contents_come_in_order_however_many_git_reads_at_once(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "large.txt").write_text("x" * 2000)
    monkeypatch.setattr(source_module, "_BATCH_BLOBS", 2)
    source = CommitSource(repository / ".git", commit(repository))
    entries = list(source.entries())
    taken = iter(entries)
    read = source.read(taken, 1000)
    first = next(read)
    assert len(list(taken)) == len(entries) - 2  # no more was taken than is read at once
    assert first == (entries[0], FILES[entries[0].path].encode())
    assert {entry.path: content for entry, content in source.read(iter(entries), 1000)} == {
        entry.path: FILES[entry.path].encode() if entry.path in FILES else None for entry in entries
    }


def test_a_commits_files_are_listed_alike_each_time(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (git_program, source_module):
        monkeypatch.setattr(module, "LIST_BLOCK_BYTES", 7)  # so that blocks end anywhere in a record
    (repository / "src/caf\u00e9 \n.py").write_text("x")
    listed = CommitSource(repository / ".git", commit(repository)).entries()
    expected = sorted([*FILES, "src/caf\u00e9 \n.py"])
    assert [[entry.path for entry in listed] for _ in range(2)] == [expected] * 2
    assert len(listed) == len(expected)
    first = next(iter(listed))
    assert first in listed
    assert replace(first, blob="0" * 40) not in listed
    assert list(WorktreeSource(repository).entries()) == list(listed)


def test_a_folder_swapped_for_a_link_leads_nowhere(repository: Path, tmp_path: Path) -> None:
    entries = WorktreeSource(repository).entries()
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "cart.py").write_text("outside")
    (repository / "src/cart.py").unlink()
    (repository / "src/tax.py").unlink()
    (repository / "src").rmdir()
    (repository / "src").symlink_to(secret)
    read = dict(WorktreeSource(repository).read([entry for entry in entries if entry.path == "src/cart.py"], 1000))
    assert list(read.values()) == [None]


def test_submodules_and_nested_repositories_are_not_entered(
    repository: Path, tmp_path: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    inner = repository / "inner"
    inner.mkdir()
    git(inner, "init", "-q")
    (inner / "deep.py").write_text("def deep_thing(): pass\n")
    done = run(WorktreeSource(repository), store, embedder)
    assert done.state.skipped["submodule"] == 1
    commit(inner)
    git(repository, "add", "inner")
    done = run(CommitSource(repository / ".git", commit(repository)), store, embedder)
    assert done.state.skipped["submodule"] == 1
    assert "inner/deep.py" not in paths(search, "deep_thing")


def test_a_plain_folder_is_indexed(
    tmp_path: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    root = tmp_path / "folder"
    (root / "node_modules").mkdir(parents=True)
    (root / "node_modules/x.js").write_text("function dependency() {}\n")
    (root / "a.py").write_text("def plain_thing(): pass\n")
    assert isinstance(folder_source(root), FolderSource)
    run(folder_source(root), store, embedder)
    (root / "a.py").write_text("def other_thing(): pass\n")
    assert run(folder_source(root), store, embedder).indexed == 1
    assert paths(search, "other_thing") == ["a.py"]
    assert paths(search, "dependency") == []


def test_only_named_files(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(WorktreeSource(repository), store, embedder)
    for name in ("cart", "tax"):
        (repository / f"src/{name}.py").write_text(f"def changed_{name}(): pass\n")
    head = CommitSource(repository / ".git", commit(repository))
    run(head, store, embedder, files=("./src/cart.py", "gone.py"))
    assert paths(search, "changed_cart")[:1] == ["src/cart.py"]
    assert "src/tax.py" in paths(search, "sales_tax")
    assert run(head, store, embedder).indexed == 1
    assert paths(search, "changed_tax")[0] == "src/tax.py"


def test_a_full_reindex_starts_anew(repository: Path, store: LocalIndexStore, embedder: StaticEmbedder) -> None:
    first = run(WorktreeSource(repository), store, embedder)
    again = run(WorktreeSource(repository), store, embedder, full=True)
    assert again.changed
    assert again.indexed == first.state.files
    assert again.state.chunks == first.state.chunks


def test_a_forced_push_is_survived(repository: Path, store: LocalIndexStore, embedder: StaticEmbedder) -> None:
    run(CommitSource(repository / ".git", commit(repository)), store, embedder)
    (repository / "src/tax.py").write_text("def rewritten(): pass\n")
    commit(repository)
    git(repository, "checkout", "-q", "--orphan", "again")
    head = commit(repository)
    git(repository, "branch", "-D", "main")
    git(repository, "reflog", "expire", "--expire=now", "--all")
    git(repository, "gc", "-q", "--prune=now")
    done = run(CommitSource(repository / ".git", head), store, embedder)
    assert done.indexed == 1
    assert done.state.commit == head


def test_progress_reaches_all_files_and_stopping_leaves_the_index(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    seen: list[tuple[int, int]] = []
    build(WorktreeSource(repository), store, NAME, embedder, report=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 4)
    assert seen[-1] == (4, 4)
    (repository / "src/tax.py").write_text("def never_seen(): pass\n")

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        build(WorktreeSource(repository), store, NAME, embedder, report=stop)
    assert paths(search, "sales_tax")[0] == "src/tax.py"
    assert build(WorktreeSource(repository), store, NAME, embedder).indexed == 1


def test_a_killed_indexer_breaks_nothing(
    repository: Path, tmp_path: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(WorktreeSource(repository), store, embedder)
    (repository / "src/tax.py").write_text("def after_the_kill(): pass\n")
    program = textwrap.dedent(
        f"""
        import sys, time
        from pathlib import Path
        from corral.adapters.embedder.static import StaticEmbedder
        from corral.adapters.index.local import LocalIndexStore, LocalIndexWriter
        from corral.adapters.index.port import IndexName
        from corral.jobs.codebase_indexing.build import build
        from corral.jobs.codebase_indexing.source import WorktreeSource
        def publish(self, **options):
            print("ready", flush=True)
            time.sleep(600)
        LocalIndexWriter.publish = publish
        build(WorktreeSource(Path({str(repository)!r})), LocalIndexStore(Path({str(tmp_path / "indexes")!r})),
              IndexName("shop"), StaticEmbedder())
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=_with_source())
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert paths(search, "sales_tax")[0] == "src/tax.py"
    run(WorktreeSource(repository), store, embedder)
    assert paths(search, "after_the_kill") == ["src/tax.py"]
    left = [path.name for path in (tmp_path / "indexes/shop/@default").glob("g-*")]
    assert len(left) <= 2


def _with_source() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


def test_searches_go_on_while_generations_change(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(WorktreeSource(repository), store, embedder)
    failures: list[str] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            found = search.search_now("shop", "sales_tax cart")
            if not {"src/cart.py"} <= {hit.path for hit in found}:
                failures.append(str(found))

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    for turn in range(12):
        (repository / "src/tax.py").write_text(f"def sales_tax_{turn}(): return cart\n")
        run(WorktreeSource(repository), store, embedder)
    stop.set()
    for thread in asking:
        thread.join()
    assert failures == []
    assert paths(search, "sales_tax_11")[:1] == ["src/tax.py"]


def test_two_indexers_of_one_project_take_turns(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(WorktreeSource(repository), store, embedder)
    (repository / "src/tax.py").write_text("def twice_indexed(): pass\n")
    threads = [threading.Thread(target=run, args=(WorktreeSource(repository), store, embedder)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths(search, "twice_indexed") == ["src/tax.py"]
    reader = store.open(NAME)
    assert reader is not None
    assert reader.state.files == 4
    assert len(reader.file_chunks("src/tax.py")) == 1
    reader.close()


def test_a_damaged_index_is_said_to_be_and_is_built_anew(
    repository: Path, tmp_path: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(WorktreeSource(repository), store, embedder)
    folder = next((tmp_path / "indexes/shop/@default").glob("g-*"))
    (folder / "manifest.json").write_text("{")
    with pytest.raises(SearchFailed, match="index it again"):
        search.search_now("shop", "tax")
    assert run(WorktreeSource(repository), store, embedder).indexed == 4
    assert paths(search, "sales_tax")[0] == "src/tax.py"


def test_a_project_without_an_index_is_said_to_be(search: CodeSearch) -> None:
    with pytest.raises(SearchFailed, match="has no index yet") as refused:
        search.search_now("other", "tax")
    assert refused.value.reason == "not_indexed"


async def test_what_is_around_a_file(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(WorktreeSource(repository), store, embedder)
    around = await search.neighbourhood("shop", "src/tax.py")
    assert [symbol.name for symbol in around.symbols] == ["sales_tax"]
    assert around.imported_files == ("src/cart.py",)
    assert around.importers == ("tests/test_tax.py",)
    assert around.tests == ("tests/test_tax.py",)
    assert [hit.path for hit in around.callers] == ["tests/test_tax.py"]
    assert around.callers[0].why == "uses sales_tax"
    with pytest.raises(SearchFailed, match="no file"):
        await search.neighbourhood("shop", "nothing.py")


async def test_a_module_that_is_imported_from_its_package_is_seen(
    tmp_path: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    importers = {
        "plain.py": "from shop import tax_rules\n",
        "shop/sibling.py": "from . import tax_rules as rules\n",
        "shop/deep/below.py": "from .. import (\n    cart,  # from . import nothing\n    tax_rules,\n)\n",
        "tests/test_other.py": "def test_it():\n    from backend.shop import cart, \\\n        tax_rules\n",
    }
    others = {
        "shop/deep/cousin.py": "from . import tax_rules\n",
        "shop/cart.py": "from . import prices  # not tax_rules\n",
        "elsewhere.py": "from other import tax_rules\n",
        "above.py": "from .... import tax_rules\n",
        "shop/tax_rules.py": "from . import cart\nfrom .deep import cousin\nfrom . import tax_rules\n",
    }
    for name, text in {**importers, **others}.items():
        path = tmp_path / "code/backend" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n\ndef made_here(): pass\n")
    run(folder_source(tmp_path / "code"), store, embedder)
    around = await search.neighbourhood("shop", "backend/shop/tax_rules.py")
    assert around.importers == tuple(sorted(f"backend/{name}" for name in importers))
    assert around.imported_files == ("backend/shop/cart.py", "backend/shop/deep/cousin.py")


async def test_what_is_around_a_file_stays_within_its_budget(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    (repository / "src/wide.py").write_text(
        "".join(f"import module_{number}\n\ndef duty_number_{number}(): pass\n" for number in range(200))
    )
    for number in range(30):
        (repository / f"tests/test_wide_{number}.py").write_text(
            f"from src.wide import duty_number_{number}\n\ndef test_it():\n    duty_number_{number}()\n"
        )
    run(WorktreeSource(repository), store, embedder)

    def told(around: Neighbourhood) -> int:
        lists = (around.tests, around.importers, around.imports, around.imported_files)
        names = [*itertools.chain(*lists), *(f"{symbol.kind} {symbol.name}" for symbol in around.symbols)]
        return sum(map(len, [*names, *(hit.text for hit in around.callers)]))

    everything = await search.neighbourhood("shop", "./src/wide.py", max_tokens=100_000)
    assert (len(everything.symbols), len(everything.imports), len(everything.importers)) == (200, 200, 30)
    assert everything.left_out == 0
    for budget in (100, 500, 2000):
        around = await search.neighbourhood("shop", "src/wide.py", max_tokens=budget)
        assert 0 < told(around) / 3.6 <= budget
        assert around.tests[:1] == everything.tests[:1], "what there is room for is told"
        kept = sum(map(len, (around.tests, around.importers, around.imports, around.symbols, around.callers)))
        whole = (everything.tests, everything.importers, everything.imports, everything.symbols, everything.callers)
        assert around.left_out == sum(map(len, whole)) - kept
    with pytest.raises(SearchFailed, match=r"no file 'wide.py'; there is src/wide.py"):
        await search.neighbourhood("shop", "wide.py")


async def test_importers_leave_room_for_definitions(
    tmp_path: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/common.py").write_text("".join(f"def duty_{number}(): pass\n" for number in range(40)))
    for number in range(300):
        (tmp_path / f"code/user_{number}.py").write_text("import common\n\nx = 1\n")
    run(folder_source(tmp_path / "code"), store, embedder)
    around = await search.neighbourhood("shop", "common.py", max_tokens=2000)
    assert len(around.symbols) > 10 < len(around.importers)
    assert around.left_out == 40 + 300 - len(around.symbols) - len(around.importers)


async def test_a_name_may_say_inside_of_what_it_is_defined(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    (repository / "src/basket.py").write_text("class Basket:\n    def add_item(self): pass\n\ndef weigh(): pass\n")
    run(WorktreeSource(repository), store, embedder)

    async def places(name: str) -> list[str]:
        return [symbol.path for symbol in await search.definitions("shop", name)]

    assert await places("add_item") == ["src/basket.py", "src/cart.py"]
    for name in ("Cart.add_item", "Cart::add_item", "Cart#add_item", "src.cart.Cart.add_item"):
        assert await places(name) == ["src/cart.py"]
    assert await places("basket.weigh") == await places("src.basket.weigh") == ["src/basket.py"]
    for name in ("Art.add_item", "Cart.weigh", "cart.weigh", "Cart.", ".add_item", "..", "Cart.Add_item"):
        assert await places(name) == []


def test_words_that_mean_nothing_find_nothing(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(WorktreeSource(repository), store, embedder)
    assert paths(search, "zzzqqq xyzzyplugh") == []
    near = search.search_now("shop", "levy percentage surcharge")
    assert near
    assert all(hit.why.startswith(("means", "nearest in meaning")) for hit in near), "no word in common"


def test_filters_take_any_case(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    run(WorktreeSource(repository), store, embedder)
    found = asyncio.run(search.search("shop", "sales_tax", languages=["Python"], kinds=["Function"]))
    assert found[0].path == "src/tax.py"


async def test_context_stays_within_its_budget(
    repository: Path, store: LocalIndexStore, embedder: StaticEmbedder, search: CodeSearch
) -> None:
    (repository / "long.py").write_text("def long_tax():\n" + "    tax_step_one_more_time()\n" * 400)
    run(WorktreeSource(repository), store, embedder)
    hits = await search.context("shop", "tax step", max_tokens=300)
    assert hits
    assert sum(len(hit.text) for hit in hits) / 3.6 <= 300
