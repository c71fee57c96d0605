"""One index for several machines, in a real object store: each "machine" is a store with a folder of its own."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from obstore.store import MemoryStore
from tests.support.object_server import KEY_ID, SECRET, ObjectServer

from corral.adapters.embedder.static import StaticEmbedder
from corral.adapters.index.bucket import Bucket, SwapRefused, open_bucket
from corral.adapters.index.factory import make_index_store
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import ChunkRow, FileRow, IndexName, LexicalQuery
from corral.adapters.index.shared import SharedIndexStore
from corral.errors import ConfigurationError, SearchFailed
from corral.interfaces.cli.doctor.finding import Verdict
from corral.interfaces.cli.doctor.machine import check_by_trying
from corral.interfaces.cli.parts import try_index_store
from corral.jobs.codebase_indexing.build import build
from corral.jobs.codebase_indexing.search import CodeSearch
from corral.jobs.codebase_indexing.source import FolderSource
from corral.settings import Settings

NAME = IndexName("shop")


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with ObjectServer() as running:
        yield running


@dataclass
class Place:
    """A bucket of a test's own, and as many machines as it wants."""

    folder: Path
    address: str
    endpoint: str

    def bucket(self) -> Bucket:
        return open_bucket(self.address, endpoint=self.endpoint)

    def machine(self, name: str, bucket: Bucket | None = None, *, refresh_s: float = 0) -> SharedIndexStore:
        return SharedIndexStore(bucket or self.bucket(), self.folder / name, refresh=timedelta(seconds=refresh_s))

    def stored(self) -> list[str]:
        return self.bucket().keys("shop")


@pytest.fixture
def place(server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return Place(tmp_path, f"s3://corral/{uuid.uuid4().hex}", server.endpoint)


def row(path: str, *words: str) -> FileRow:
    chunk = ChunkRow(1, 1, "f", "function", ("function",), True, {"body": " ".join(words)})
    return FileRow(path, f"blob-{path}-{words}", "python", 1, " ".join(words), 1.0, [chunk])


def publish(store: SharedIndexStore, *rows: FileRow, name: IndexName = NAME, commit: str = "c") -> None:
    with store.writer(name, identity="one", embedder="none", dimension=4) as writer:
        for one in rows:
            writer.add(one, np.zeros((1, 4), dtype=np.int8))
        writer.publish(commit=commit)


def found(store: SharedIndexStore | LocalIndexStore, word: str, name: IndexName = NAME) -> list[str]:
    reader = store.open(name)
    assert reader is not None
    try:
        hits = reader.candidates(LexicalQuery({"body": [(word, 1.0)]}), 50)
        return sorted(chunk.path for chunk in reader.chunks(hits.uids.tolist()))
    finally:
        reader.close()


def test_another_machine_searches_what_was_indexed_elsewhere_and_sees_changes(place: Place, tmp_path: Path) -> None:
    code = tmp_path / "code"
    code.mkdir()
    (code / "tax.py").write_text("def sales_tax(amount):\n    return amount * 0.19\n")
    embedder = StaticEmbedder()
    ours = place.machine("a")
    build(FolderSource(code), ours, NAME, embedder)
    search = CodeSearch(place.machine("b"), embedder)
    try:
        assert search.search_now("shop", "how is tax computed")[0].path == "tax.py"
        (code / "refund.py").write_text("def refund(order):\n    return order.paid\n")
        assert build(FolderSource(code), ours, NAME, embedder).reused == 1
        assert search.search_now("shop", "refund an order")[0].path == "refund.py"
        # And the other way round: what is there is taken over, not built again.
        again = build(FolderSource(code), place.machine("c"), NAME, embedder)
        assert (again.indexed, again.reused) == (0, 2)
    finally:
        search.close()


def test_what_is_known_is_good_for_a_while(place: Place) -> None:
    ours, other = place.machine("a"), place.machine("b", refresh_s=3600)
    publish(ours, row("a.py", "one"))
    assert found(other, "one") == ["a.py"]
    publish(ours, row("b.py", "one"))
    assert found(other, "one") == ["a.py"]
    assert found(place.machine("b"), "one") == ["a.py", "b.py"]


class Counting(Bucket):
    """Knows what was fetched and stored through it."""

    def __init__(self, inner: Bucket) -> None:
        super().__init__(inner._store, "counted")
        self.fetched: list[str] = []
        self.stored = 0

    def fetch(self, keys: Any, take: Callable[[int, bytes], None]) -> bool:
        wanted = list(keys)
        self.fetched += wanted
        return super().fetch(wanted, take)

    def write(self, objects: Any) -> None:
        wanted = list(objects)
        self.stored += len(wanted)
        super().write(wanted)


def test_only_what_differs_travels(place: Place) -> None:
    sent, got = Counting(place.bucket()), Counting(place.bucket())
    ours, other = place.machine("a", sent), place.machine("b", got)
    publish(ours, *[row(f"f{number}.py", *[f"w{number}x{word}" for word in range(400)]) for number in range(300)])
    assert len(found(other, "w7x7")) == 1
    whole = (sent.stored, len(got.fetched))
    publish(ours, row("new.py", "fresh"))
    assert found(other, "fresh") == ["new.py"]
    assert (sent.stored - whole[0], len(got.fetched) - whole[1]) == (sent.stored - whole[0],) * 2
    kept = {key.rpartition("/o/")[2].split("/")[0] for key in place.stored() if "/o/" in key}
    assert len(kept) == 2, "blocks of the first publication are still in use"
    assert len(set(got.fetched)) == len(got.fetched), "no block was fetched twice"


def test_who_publishes_second_is_refused_and_leaves_nothing(place: Place) -> None:
    ours, other = place.machine("a"), place.machine("b")
    publish(ours, row("a.py", "base"))
    with ours.writer(NAME, identity="one", embedder="none", dimension=4) as slow:
        slow.add(row("slow.py", "slow"), np.zeros((1, 4), dtype=np.int8))
        publish(other, row("quick.py", "quick"))
        before = set(place.stored())
        with pytest.raises(SearchFailed) as refused:
            slow.publish(commit="late")
        assert (refused.value.reason, refused.value.retryable) == ("index_busy", True)
    assert set(place.stored()) == before
    for machine in (ours, other, place.machine("c")):
        assert found(machine, "quick") == ["quick.py"]
        assert found(machine, "slow") == []
    publish(ours, row("slow.py", "slow"))
    assert found(other, "slow") == ["slow.py"]


def test_many_publishers_and_readers_never_see_half(place: Place) -> None:
    publish(place.machine("first"), row("count.py", "count0"))
    done = threading.Event()

    def work(number: int) -> int:
        machine, published = place.machine(f"w{number}"), 0
        while published < 4:
            try:
                with machine.writer(NAME, identity="one", embedder="none", dimension=4) as writer:
                    assert writer.base is not None
                    turn = int(writer.base.commit.removeprefix("c") or 0) + 1
                    for path in ("left.py", "right.py"):
                        writer.add(row(path, f"turn{turn}"), np.zeros((1, 4), dtype=np.int8))
                    writer.publish(commit=f"c{turn}")
                published += 1
            except SearchFailed as error:
                assert error.reason == "index_busy", error  # noqa: PT017
        return published

    def read(number: int) -> int:
        machine, seen = place.machine(f"r{number}"), 0
        while not done.is_set():
            reader = machine.open(NAME)
            assert reader is not None
            turn = int(reader.state.commit.removeprefix("c") or 0)
            assert turn >= seen, "an index went back in time"
            if turn:
                hits = reader.candidates(LexicalQuery({"body": [(f"turn{turn}", 1.0)]}), 9)
                assert sorted(chunk.path for chunk in reader.chunks(hits.uids.tolist())) == ["left.py", "right.py"]
            seen = turn
            reader.close()
        return seen

    with ThreadPoolExecutor(5) as pool:
        readers = [pool.submit(read, number) for number in range(2)]
        try:
            assert sum(pool.map(work, range(3))) == 12
        finally:
            done.set()
        for reader in readers:
            reader.result()
    last = place.machine("last").open(NAME)
    assert last is not None
    assert last.state.commit == "c12", "twelve publications, none lost"
    last.close()


def test_a_publisher_killed_before_the_swap_breaks_nothing_and_is_cleaned_up(place: Place) -> None:
    ours = place.machine("a")
    publish(ours, row("a.py", "kept"))
    before = set(place.stored())
    program = textwrap.dedent(f"""
        import sys, time
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from corral.adapters.index.bucket import Bucket
        from tests.integration.index_store.test_shared import Place, publish, row
        def stop_here(*_):
            print("written", flush=True)
            time.sleep(600)
        place = Place(Path({str(place.folder)!r}), {place.address!r}, {place.endpoint!r})
        machine = place.machine("killed")
        machine.check()
        machine._checked = True
        Bucket.swap = stop_here
        publish(machine, row("b.py", "lost"))
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        child.send_signal(signal.SIGKILL)
    left = set(place.stored()) - before
    assert left
    assert found(place.machine("b"), "lost") == []
    publish(ours, row("c.py", "kept"))
    assert not left & set(place.stored())
    assert found(place.machine("killed"), "kept") == ["a.py", "c.py"]


def test_what_nobody_uses_is_deleted(place: Place) -> None:
    ours, used = place.machine("a"), [set[str]()]
    for number in range(12):
        publish(ours, row("a.py", f"turn{number}", *[f"w{word}" for word in range(50)]))
        root = json.loads(bytes(obstore.get(place.bucket()._store, "shop/@default/current.json").bytes()))
        used.append({f"shop/@default/o/{block[0]}" for blocks in root["files"].values() for block in blocks})
    assert {key for key in place.stored() if "/o/" in key} == used[-1] | used[-2]


def test_a_block_that_is_deleted_while_it_is_fetched_brings_the_next_generation(place: Place) -> None:
    ours = place.machine("a")
    publish(ours, row("a.py", "first"))

    class Overtaken(Counting):
        def fetch(self, keys: Any, take: Callable[[int, bytes], None]) -> bool:
            if not self.fetched:
                for number in range(3):
                    publish(ours, row("a.py", f"later{number}"))
            return super().fetch(keys, take)

    overtaken = Overtaken(place.bucket())
    assert found(place.machine("b", overtaken), "later2") == ["a.py"]


def test_a_branch_is_copied_inside_the_store(place: Place) -> None:
    publish(place.machine("a"), row("a.py", *[f"w{word}" for word in range(500)]))
    branch = IndexName("shop", "feature/x")
    sent = Counting(place.bucket())
    other = place.machine("b", sent)
    with other.writer(branch, identity="one", embedder="none", dimension=4) as writer:
        assert writer.base is not None
        writer.add(row("b.py", "new"), np.zeros((1, 4), dtype=np.int8))
        writer.publish(commit="d")
    assert found(place.machine("c"), "w7", branch) == ["a.py"]
    keys = [key for key in place.stored() if "/feature_x" in key and "/o/" in key]
    assert 0 < sent.stored < len(keys), "some blocks were copied, not sent"
    other.remove("shop")
    assert [key for key in place.stored() if "/o/" in key] == []
    assert place.machine("c").open(branch) is None


def test_a_branch_that_is_removed_is_gone_on_every_machine_and_can_come_again(place: Place) -> None:
    branch = IndexName("shop", "feature/x")
    one, other = place.machine("a"), place.machine("b")
    publish(one, row("a.py", "main"))
    publish(one, row("x.py", "old"), name=branch)
    assert found(other, "old", branch) == ["x.py"]
    assert other.branches("shop") == one.branches("shop") == ["", "feature/x"]

    other.remove("shop", "feature/x")

    assert one.branches("shop") == [""]
    assert one.open(branch) is None
    assert found(one, "main") == ["a.py"]
    assert [key for key in place.stored() if "feature_x" in key and "/o/" in key] == []
    publish(one, row("y.py", "new"), name=branch)
    assert found(other, "new", branch) == ["y.py"]
    assert found(other, "old", branch) == []


def test_numbers_never_go_back(place: Place) -> None:
    ours, other = place.machine("a"), place.machine("b")
    publish(ours, row("a.py", "one"))
    publish(ours, row("a.py", "two"))
    assert found(other, "two") == ["a.py"]
    ours.remove("shop")
    assert ours.open(NAME) is None
    assert other.open(NAME) is None
    publish(other, row("b.py", "three"))
    assert (ours.current(NAME) or 0) > 2
    assert found(ours, "three") == ["b.py"]
    assert found(ours, "two") == []


def test_a_swap_whose_answer_is_lost_counts(place: Place) -> None:
    class Forgetful(Counting):
        forget = False

        def swap(self, key: str, content: bytes, tag: str | None) -> str:
            done = super().swap(key, content, tag)
            if self.forget:
                raise SwapRefused
            return done

    bucket = Forgetful(place.bucket())
    ours = place.machine("a", bucket)
    publish(ours, row("a.py", "one"))
    bucket.forget = True
    publish(ours, row("a.py", "two"))
    assert found(place.machine("b"), "two") == ["a.py"]
    assert found(ours, "two") == ["a.py"]


def test_a_damaged_copy_is_fetched_again(place: Place) -> None:
    publish(place.machine("a"), row("a.py", "one"))
    ours = place.machine("b")
    assert found(ours, "one") == ["a.py"]
    (manifest,) = (place.folder / "b").rglob("manifest.json")
    manifest.write_text("{")
    assert found(ours, "one") == ["a.py"]
    assert found(place.machine("b"), "one") == ["a.py"]


def test_a_damaged_block_is_said_to_be(place: Place) -> None:
    publish(place.machine("a"), row("a.py", "one"))
    store = place.bucket()._store
    for key in place.stored():
        if "/o/" in key:
            obstore.put(store, key, b"damaged")
    with pytest.raises(SearchFailed, match="damaged") as said:
        place.machine("b").open(NAME)
    assert not said.value.retryable


@pytest.mark.parametrize("name", ["../../outside", "/etc/x", "words/../../x", "", "a//b"])
def test_a_published_name_never_leaves_the_copy(place: Place, name: str) -> None:
    publish(place.machine("a"), row("a.py", "one"))
    store, key = place.bucket()._store, "shop/@default/current.json"
    root = json.loads(bytes(obstore.get(store, key).bytes()))
    root["token"], root["files"] = "other", {name: next(iter(root["files"].values()))}
    obstore.put(store, key, json.dumps(root).encode())
    with pytest.raises(SearchFailed, match="can't be read"):
        place.machine("b").open(NAME)
    assert not (place.folder.parent / "outside").exists()


def test_search_goes_on_while_the_store_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ObjectServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        place = Place(tmp_path, "s3://corral/x", server.endpoint)
        ours = place.machine("a")
        publish(ours, row("a.py", "one"))
        server.stop()
        assert found(ours, "one") == ["a.py"]
        with pytest.raises(SearchFailed) as refused:
            publish(ours, row("b.py", "two"))
        assert (refused.value.reason, refused.value.retryable) == ("index_store_unavailable", True)
        with pytest.raises(SearchFailed) as nothing:
            place.machine("b").open(NAME)
        assert nothing.value.retryable
        server.start()
        publish(ours, row("b.py", "two"))
        assert found(place.machine("b"), "two") == ["b.py"]


def test_a_bucket_that_is_missing_is_no_empty_one(place: Place) -> None:
    publish(place.machine("a"), row("a.py", "one"))
    missing = open_bucket(f"s3://no-{uuid.uuid4().hex}", endpoint=place.endpoint)
    with pytest.raises(SearchFailed, match="NoSuchBucket") as said:
        place.machine("b", missing).open(NAME)
    assert said.value.reason == "index_store_refused"
    assert found(place.machine("a", missing), "one") == ["a.py"], "the copy at hand is good enough"


def test_a_probe_whose_answer_is_lost_is_no_fault_of_the_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = Bucket.swap

    def without_answer(self: Bucket, key: str, content: bytes, tag: str | None) -> str:
        swap(self, key, content, tag)
        raise SwapRefused

    monkeypatch.setattr(Bucket, "swap", without_answer)
    place.bucket().check()
    assert place.bucket().keys("") == []


def test_wrong_keys_are_said_without_showing_any(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in (("AWS_SECRET_ACCESS_KEY", "not-the-secret"), ("AWS_ACCESS_KEY_ID", "AKSOMEBODYELSE")):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with pytest.raises(SearchFailed) as refused:
                publish(place.machine("a"), row("a.py", "one"))
            told = f"{refused.value} {refused.value!r} {refused.value.__cause__!r}"
            assert refused.value.reason == "index_store_refused"
            assert not refused.value.retryable
            for secret in (SECRET, KEY_ID, value):
                assert secret not in told
            assert "AWS_" in told


def test_a_store_without_conditional_writes_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    really_put = obstore.put
    plain = functools.partial(really_put)
    monkeypatch.setattr(obstore, "put", lambda store, key, content, **_: plain(store, key, content))
    store = SharedIndexStore(Bucket(MemoryStore(), "memory"), tmp_path)
    with pytest.raises(ConfigurationError, match="ignores If-Match"):
        publish(store, row("a.py", "one"))


@pytest.mark.parametrize("address", ["s3:/x", "s3://", "S3://Bucket/x", "https://bucket", "s3://bucket/x?y", "disk"])
def test_an_address_that_is_none_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected CORRAL_INDEX_STORE"):
        make_index_store(Settings(_env_file=None, data_dir=tmp_path, index_store=address))


def test_the_settings_choose_the_store(place: Place, tmp_path: Path) -> None:
    local = make_index_store(Settings(_env_file=None, data_dir=tmp_path))
    assert isinstance(local, LocalIndexStore)
    made = make_index_store(
        Settings(_env_file=None, data_dir=tmp_path, index_store=place.address, index_store_endpoint=place.endpoint)
    )
    assert isinstance(made, SharedIndexStore)
    publish(made, row("a.py", "one"))
    assert found(place.machine("b"), "one") == ["a.py"]


async def test_the_doctor_tries_the_store_and_leaves_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        _env_file=None, data_dir=tmp_path, index_store=place.address, index_store_endpoint=place.endpoint
    )
    assert await try_index_store(settings) == (
        f"{place.address} takes conditional writes; copies here: 0, 0 of 10,000 MB"
    )
    assert place.bucket().keys("") == []
    assert await try_index_store(Settings(_env_file=None, data_dir=tmp_path)) == "on this machine alone"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    finding = await check_by_trying("index store", lambda: try_index_store(settings), "mend")
    assert finding.verdict is Verdict.FAULT
    assert "AWS_" in finding.detail
