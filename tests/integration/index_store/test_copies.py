"""How copies of shared indexes share a machine's disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore
from tests.integration.index_store.test_shared import found, publish, row

from corral.adapters.index.bucket import Bucket, Held, Unchanged
from corral.adapters.index.copies import Copies
from corral.adapters.index.local import LocalIndexStore, LocalIndexWriter
from corral.adapters.index.port import IndexName
from corral.adapters.index.shared import SharedIndexStore

ALL = 1 << 40
"""Room for everything."""


@pytest.fixture
def bucket() -> Bucket:
    return Bucket(MemoryStore(), "memory")


def machine(bucket: Bucket, folder: Path, limit_bytes: int = ALL) -> SharedIndexStore:
    return SharedIndexStore(bucket, folder, copies_bytes=limit_bytes, refresh=timedelta(0))


def published(bucket: Bucket, tmp_path: Path, count: int) -> list[IndexName]:
    names = [IndexName(f"p{number}") for number in range(count)]
    for name in names:
        publish(machine(bucket, tmp_path / "builder"), row(f"{name.project_id}.py", "word"), name=name)
    return names


def here(folder: Path) -> set[str]:
    return {path.parent.parent.name for path in folder.glob("*/*/CURRENT")}


def of_one(folder: Path) -> int:
    """What a copy takes."""
    use = Copies(folder, ALL).use()
    return use.used_bytes // use.indexes


def test_the_least_recently_used_that_nobody_has_open_goes_and_comes_again(bucket: Bucket, tmp_path: Path) -> None:
    names = published(bucket, tmp_path, 4)
    room = tmp_path / "reader"
    size = of_one(tmp_path / "builder")
    store = machine(bucket, room, round(2.5 * size))
    opened = store.open(names[0])
    assert opened is not None
    assert found(store, "word", names[1]) == ["p1.py"]
    assert found(store, "word", names[2]) == ["p2.py"]
    assert here(room) == {"p0", "p2"}, "p0 is open, p1 was used before p2"
    assert found(store, "word", names[3]) == ["p3.py"]
    assert here(room) == {"p0", "p3"}
    use = store.copies_use()
    assert (use.indexes, use.limit_bytes) == (2, round(2.5 * size))
    assert 0 < use.used_bytes <= use.limit_bytes

    opened.close()
    assert found(store, "word", names[3]) == ["p3.py"]
    assert found(store, "word", names[1]) == ["p1.py"], "what went is fetched again"
    assert here(room) == {"p1", "p3"}


def test_all_stay_that_are_open_and_a_new_one_comes_all_the_same(bucket: Bucket, tmp_path: Path) -> None:
    names = published(bucket, tmp_path, 3)
    store = machine(bucket, tmp_path / "reader", 1)
    readers = [store.open(name) for name in names]
    assert here(tmp_path / "reader") == {"p0", "p1", "p2"}
    for reader in readers:
        assert reader is not None
        reader.close()
    assert found(store, "word", names[1]) == ["p1.py"]
    Copies(tmp_path / "reader", 1).trim()
    assert here(tmp_path / "reader") == set()
    assert [path.name for path in (tmp_path / "reader").iterdir()] == [".trim"], "no lock or folder stays behind"


def test_what_branches_share_counts_once(bucket: Bucket, tmp_path: Path) -> None:
    builder = machine(bucket, tmp_path / "builder")
    publish(builder, row("big.py", os.urandom(200_000).hex()))
    alone = builder.copies_use()
    for branch in ("a", "b", "c"):
        publish(builder, row(f"{branch}.py", "word"), name=IndexName("shop", branch))
    together = builder.copies_use()
    assert (alone.indexes, together.indexes) == (1, 4)
    assert together.used_bytes < 2 * alone.used_bytes


def test_an_index_that_another_process_reads_stays_until_it_ends(bucket: Bucket, tmp_path: Path) -> None:
    (name,) = published(bucket, tmp_path, 1)
    store = machine(bucket, tmp_path / "reader")
    assert found(store, "word", name) == ["p0.py"]
    folder = next((tmp_path / "reader").glob("p0/*"))
    program = """
        import pathlib, sys, time
        from corral.adapters.index.copies import Copies
        held = Copies(pathlib.Path(sys.argv[1]).parent.parent, 1).hold(pathlib.Path(sys.argv[1]))
        print("held", flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            Copies(tmp_path / "reader", 1).trim()
            assert here(tmp_path / "reader") == {"p0"}
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
    Copies(tmp_path / "reader", 1).trim()
    assert here(tmp_path / "reader") == set()


def test_a_writer_keeps_its_base(bucket: Bucket, tmp_path: Path) -> None:
    (name,) = published(bucket, tmp_path, 1)
    store = machine(bucket, tmp_path / "builder")
    with store.writer(name, identity="one", embedder="none", dimension=4) as writer:
        Copies(tmp_path / "builder", 1).trim()
        assert here(tmp_path / "builder") == {"p0"}
        assert writer.known() != {}
        writer.publish(commit="d")
    assert found(store, "word", name) == ["p0.py"]


class LateBucket(Bucket):
    """Whoever asks it which generation is published hears of it only when told to go on."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store, "memory")
        self.asked, self.go_on = threading.Event(), threading.Event()

    def read_unless(self, key: str, tag: str | None) -> Held | Unchanged | None:
        held = super().read_unless(key, tag)
        self.asked.set()
        assert self.go_on.wait(30)
        return held


def test_a_writer_never_builds_on_an_older_generation_that_a_slow_reader_lays_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = MemoryStore()
    bucket, late = Bucket(memory, "memory"), LateBucket(memory)
    (name,) = published(bucket, tmp_path, 1)
    store = machine(bucket, tmp_path / "shared")
    begin = LocalIndexStore.writer
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(machine(late, tmp_path / "shared").current, name)
        assert late.asked.wait(30)
        publish(machine(bucket, tmp_path / "elsewhere"), row("second.py", "word"), name=name)

        def after_the_reader(self: LocalIndexStore, *args: Any, **options: Any) -> LocalIndexWriter:
            late.go_on.set()
            assert reading.result(30) in {1, 2}
            return begin(self, *args, **options)

        monkeypatch.setattr(LocalIndexStore, "writer", after_the_reader)
        publish(store, row("third.py", "word"), name=name)
    assert found(machine(bucket, tmp_path / "new"), "word", name) == ["p0.py", "second.py", "third.py"]


def test_without_any_room_readers_and_writers_are_right_all_the_same(bucket: Bucket, tmp_path: Path) -> None:
    """Every fetch and every publication deletes all that is not in use at that moment."""
    names = published(bucket, tmp_path, 3)
    rounds = 12

    def read(number: int) -> None:
        store = machine(bucket, tmp_path / "shared", 1)
        for turn in range(rounds):
            name = names[(turn + number) % len(names)]
            assert f"{name.project_id}.py" in found(store, "word", name)

    def write(name: IndexName) -> None:
        store = machine(bucket, tmp_path / "shared", 1)
        for turn in range(rounds):
            publish(store, row(f"new{turn}.py", "word"), name=name, commit=str(turn))

    with ThreadPoolExecutor(6) as pool:
        running = [*(pool.submit(read, number) for number in range(3)), *(pool.submit(write, name) for name in names)]
        for one in running:
            one.result(timeout=120)
    for name in names:
        assert len(found(machine(bucket, tmp_path / "new"), "word", name)) == rounds + 1
