"""Shared indexes where things happen at the worst moment: each test makes that moment, and none waits for chance."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from obstore.store import MemoryStore
from tests.integration.index_store.test_shared import Counting, found, publish, row

from corral.adapters.index.bucket import Bucket, Held, SwapRefused, Unchanged
from corral.adapters.index.copies import Copies
from corral.adapters.index.port import IndexName
from corral.adapters.index.shared import SharedIndexStore
from corral.errors import SearchFailed

NAME = IndexName("shop")
BRANCH = IndexName("shop", "feature/x")


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def bucket(memory: MemoryStore) -> Bucket:
    return Bucket(memory, "memory")


def machine(bucket: Bucket, folder: Path, limit_bytes: int = 1 << 40) -> SharedIndexStore:
    return SharedIndexStore(bucket, folder, copies_bytes=limit_bytes, refresh=timedelta(0))


class Asked(Bucket):
    """Told to, it answers one question about what is published only when told to go on."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, "memory")
        self.late = False
        self.asked, self.go_on = threading.Event(), threading.Event()

    def read_unless(self, key: str, tag: str | None) -> Held | Unchanged | None:
        held = super().read_unless(key, tag)
        if self.late:
            self.late = False
            self.asked.set()
            assert self.go_on.wait(30)
        return held


@pytest.fixture
def late(memory: MemoryStore) -> Iterator[Asked]:
    asked = Asked(memory)
    yield asked
    asked.go_on.set()


def asking_late(late: Asked, store: SharedIndexStore, pool: ThreadPoolExecutor, name: IndexName = NAME) -> Any:
    late.late = True
    asking = pool.submit(store.current, name)
    assert late.asked.wait(30)
    return asking


def test_a_slow_reader_takes_no_copy_back_in_time(bucket: Bucket, late: Asked, tmp_path: Path) -> None:
    publish(machine(bucket, tmp_path / "a"), row("first.py", "word"))
    quick, slow = machine(bucket, tmp_path / "shared"), machine(late, tmp_path / "shared")
    with ThreadPoolExecutor(1) as pool:
        asking = asking_late(late, slow, pool)
        publish(machine(bucket, tmp_path / "a"), row("second.py", "word"))
        assert found(quick, "word") == ["first.py", "second.py"]
        late.go_on.set()
        assert asking.result(30) == 2
    assert quick._local.current(NAME) == 2


def test_who_heard_of_a_removal_late_deletes_nothing_newer(bucket: Bucket, late: Asked, tmp_path: Path) -> None:
    ours = machine(bucket, tmp_path / "a")
    publish(ours, row("first.py", "word"))
    quick, slow = machine(bucket, tmp_path / "shared"), machine(late, tmp_path / "shared")
    assert found(slow, "word") == ["first.py"]
    ours.remove("shop")
    with ThreadPoolExecutor(1) as pool:
        asking = asking_late(late, slow, pool)
        publish(ours, row("again.py", "word"))
        assert found(quick, "word") == ["again.py"]
        late.go_on.set()
        assert asking.result(30) == ours.current(NAME)
    assert quick._local.current(NAME) == ours.current(NAME)


def test_a_copy_that_is_deleted_just_now_is_no_missing_index(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(machine(bucket, tmp_path / "a"), row("first.py", "word"))
    store = machine(bucket, tmp_path / "b")
    refresh = SharedIndexStore._refresh

    def and_deleted(self: SharedIndexStore, *args: Any, **options: Any) -> Any:
        seen = refresh(self, *args, **options)
        Copies(tmp_path / "b", 0).trim()
        return seen

    monkeypatch.setattr(SharedIndexStore, "_refresh", and_deleted)
    assert store.current(NAME) == 1
    assert found(store, "word") == ["first.py"]
    publish(store, row("second.py", "word"))
    assert found(store, "word") == ["first.py", "second.py"]


class LostAnswer(Bucket):
    """The answer to one swap gets lost; by the time it is asked again, others have gone on."""

    def __init__(self, store: MemoryStore, meanwhile: Callable[[], None]) -> None:
        super().__init__(store, "memory")
        self._meanwhile = meanwhile
        self.lose = False

    def swap(self, key: str, content: bytes, tag: str | None) -> str:
        done = super().swap(key, content, tag)
        if self.lose:
            self.lose = False
            self._meanwhile()
            raise SwapRefused
        return done


def test_what_was_published_without_an_answer_and_built_upon_is_not_deleted(
    memory: MemoryStore, tmp_path: Path
) -> None:
    other = machine(Bucket(memory, "memory"), tmp_path / "b")
    losing = LostAnswer(memory, lambda: publish(other, row("theirs.py", "word")))
    ours = machine(losing, tmp_path / "a")
    publish(ours, row("first.py", "word"))
    losing.lose = True
    publish(ours, row("ours.py", "word"))
    for store in (machine(Bucket(memory, "memory"), tmp_path / "new"), ours, other):
        assert found(store, "word") == ["first.py", "ours.py", "theirs.py"]


def damage(memory: MemoryStore, bucket: Bucket, *, delete: bool) -> None:
    for key in bucket.keys("shop"):
        if "/o/" in key:
            if delete:
                obstore.delete(memory, key)
            else:
                obstore.put(memory, key, b"damaged")


@pytest.mark.parametrize("delete", [False, True])
def test_a_damaged_store_is_told_and_mended_by_a_full_build(
    memory: MemoryStore, bucket: Bucket, tmp_path: Path, *, delete: bool
) -> None:
    publish(machine(bucket, tmp_path / "a"), row("first.py", "word"))
    damage(memory, bucket, delete=delete)
    store = machine(bucket, tmp_path / "b")
    with pytest.raises(SearchFailed, match="fullReindex") as said:
        store.open(NAME)
    assert (said.value.reason, said.value.retryable) == ("index_unreadable", False)
    with store.writer(NAME, identity="one", embedder="none", dimension=4, fresh=True) as writer:
        writer.add(row("again.py", "word"), np.zeros((1, 4), dtype=np.int8))
        writer.publish(commit="c")
    assert found(machine(bucket, tmp_path / "new"), "word") == ["again.py"]


def test_a_damaged_copy_is_no_base_and_is_fetched_again(bucket: Bucket, tmp_path: Path) -> None:
    publish(machine(bucket, tmp_path / "a"), row("first.py", "word"))
    store = machine(bucket, tmp_path / "b")
    assert found(store, "word") == ["first.py"]
    (columns,) = (tmp_path / "b").rglob("columns-*")
    columns.write_bytes(b"")
    publish(store, row("second.py", "word"))
    assert found(machine(bucket, tmp_path / "new"), "word") == ["first.py", "second.py"]


class Interrupted(Bucket):
    """Before it fetches for the first time, something happens."""

    def __init__(self, store: MemoryStore, meanwhile: Callable[[], object]) -> None:
        super().__init__(store, "memory")
        self._meanwhile: list[Callable[[], object]] = [meanwhile]

    def fetch(self, keys: Any, take: Callable[[int, bytes], None]) -> bool:
        if self._meanwhile:
            self._meanwhile.pop()()
        return super().fetch(keys, take)


def test_an_index_that_is_removed_while_it_is_fetched_is_none(memory: MemoryStore, tmp_path: Path) -> None:
    beside = machine(Bucket(memory, "memory"), tmp_path / "shared")
    publish(machine(Bucket(memory, "memory"), tmp_path / "a"), row("first.py", "word"))
    store = machine(Interrupted(memory, lambda: beside.remove("shop")), tmp_path / "shared")
    assert store.open(NAME) is None
    assert list((tmp_path / "shared").glob("[!.]*")) == []


def test_an_index_that_is_removed_and_made_again_while_it_is_fetched_is_the_new_one(
    memory: MemoryStore, tmp_path: Path
) -> None:
    beside = machine(Bucket(memory, "memory"), tmp_path / "shared")
    publish(machine(Bucket(memory, "memory"), tmp_path / "a"), row("first.py", "word"))

    def again() -> None:
        beside.remove("shop")
        publish(beside, row("again.py", "word"))

    store = machine(Interrupted(memory, again), tmp_path / "shared")
    assert found(store, "word") == found(beside, "word") == ["again.py"]


def test_a_writer_at_work_does_not_keep_a_removed_index_alive(bucket: Bucket, tmp_path: Path) -> None:
    publish(machine(bucket, tmp_path / "a"), row("first.py", "word"))
    store = machine(bucket, tmp_path / "b")
    with store.writer(NAME, identity="one", embedder="none", dimension=4) as writer:
        machine(bucket, tmp_path / "a").remove("shop")
        assert store.open(NAME) is None
        with pytest.raises(SearchFailed) as refused:
            writer.publish(commit="late")
        assert refused.value.reason == "index_busy"
    assert store.open(NAME) is None
    assert list((tmp_path / "b").glob("[!.]*")) == [], "nothing of it is left here"


def test_blocks_whose_first_publisher_was_stopped_go_with_the_project(
    memory: MemoryStore, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine(bucket, tmp_path / "a")
    with monkeypatch.context() as patch, store.writer(NAME, identity="o", embedder="n", dimension=4) as writer:
        patch.setattr(Bucket, "swap", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writer.publish(commit="c")
    assert bucket.keys("shop/@default/o")
    # One that is still at work is refused, and can't publish what has just been deleted.
    with machine(bucket, tmp_path / "b").writer(NAME, identity="o", embedder="n", dimension=4) as writer:
        store.remove("shop")
        with pytest.raises(SearchFailed) as refused:
            writer.publish(commit="c")
        assert refused.value.reason == "index_busy"
    assert bucket.keys("shop/@default/o") == []


def test_a_branch_takes_from_a_siblings_copy_what_that_has(memory: MemoryStore, tmp_path: Path) -> None:
    builder = machine(Bucket(memory, "memory"), tmp_path / "a")
    publish(builder, row("big.py", os.urandom(1_500_000).hex()))
    publish(builder, row("small.py", "word"), name=BRANCH)
    counted = Counting(Bucket(memory, "memory"))
    store = machine(counted, tmp_path / "b")
    assert found(store, "nothing") == []
    alone, before = store.copies_use().used_bytes, len(counted.fetched)
    assert found(store, "word", BRANCH) == ["small.py"]
    packs = {path.stat().st_ino for path in (tmp_path / "b").rglob("text-*.pack") if path.stat().st_size > 1_000_000}
    assert len(packs) == 1, "the same file, not its content once more"
    assert len(counted.fetched) - before < before
    assert store.copies_use().used_bytes < 1.5 * alone


def test_a_siblings_damaged_copy_spreads_no_further(bucket: Bucket, tmp_path: Path) -> None:
    builder = machine(bucket, tmp_path / "a")
    publish(builder, row("big.py", "word"))
    publish(builder, row("small.py", "word"), name=BRANCH)
    store = machine(bucket, tmp_path / "b")
    assert found(store, "word") == ["big.py"]
    for path in (tmp_path / "b").rglob("columns-*"):
        path.write_bytes(bytes(path.stat().st_size))
    assert found(store, "word", BRANCH) == ["big.py", "small.py"]


def test_a_branch_begins_as_any_other_when_the_default_one_was_removed(bucket: Bucket, tmp_path: Path) -> None:
    builder = machine(bucket, tmp_path / "a")
    publish(builder, row("main.py", "word"))
    publish(builder, row("x.py", "word"), name=BRANCH)
    builder.remove("shop", "")
    publish(machine(bucket, tmp_path / "b", 1), row("y.py", "word"), name=IndexName("shop", "y"))
    assert found(builder, "word", IndexName("shop", "y")) == ["main.py", "x.py", "y.py"]
