"""What every index store keeps, run over the one in memory, the one on disk and the one in an object store."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from tests.support.object_server import ObjectServer

from corral.adapters.index.bucket import open_bucket
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.memory import MemoryIndexStore
from corral.adapters.index.port import (
    ChunkRow,
    FileRow,
    Filters,
    IndexName,
    IndexReader,
    IndexStore,
    IndexWriter,
    LexicalQuery,
    SymbolRow,
)
from corral.adapters.index.shared import SharedIndexStore
from corral.adapters.words import words_of
from corral.errors import SearchFailed

NAME = IndexName("shop")
DIMENSION = 4


@pytest.fixture(scope="module")
def objects() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


def shared(objects: ObjectServer, copies: Path, monkeypatch: pytest.MonkeyPatch) -> IndexStore:
    for name, value in objects.environment.items():
        monkeypatch.setenv(name, value)
    bucket = open_bucket(f"s3://corral/{uuid.uuid4().hex}", endpoint=objects.endpoint)
    return SharedIndexStore(bucket, copies, refresh=timedelta(0), lock_timeout=timedelta(0))


@pytest.fixture(params=["memory", "local", "shared"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexStore]:
    made: IndexStore
    if request.param == "memory":
        made = MemoryIndexStore()
    elif request.param == "local":
        made = LocalIndexStore(tmp_path / "indexes", lock_timeout=timedelta(0))
    else:
        made = shared(request.getfixturevalue("objects"), tmp_path / "copies", monkeypatch)
    opened: list[IndexReader] = []
    really_open = made.open

    def open_and_close_later(name: IndexName) -> IndexReader | None:
        reader = really_open(name)
        if reader is not None:
            opened.append(reader)
        return reader

    monkeypatch.setattr(made, "open", open_and_close_later)
    yield made
    for reader in opened:
        reader.close()


def write(store: IndexStore, name: IndexName = NAME, *, fresh: bool = False, identity: str = "one") -> IndexWriter:
    return store.writer(name, identity=identity, embedder="test", dimension=DIMENSION, fresh=fresh)


def file(path: str, *bodies: str, language: str = "python", blob: str = "", kind: str = "function") -> FileRow:
    text = "\n".join(bodies)
    chunks = [
        ChunkRow(
            start_line=number,
            end_line=number,
            symbol=f"f{number}",
            kind=kind,
            kinds=(kind,),
            defines=True,
            fields={
                "body": words_of(body),
                "names": f"f{number}",
                "path": words_of(path),
                "stem": "",
                "exact": f"f{number}",
            },
        )
        for number, body in enumerate(bodies, start=1)
    ]
    symbols = [SymbolRow(f"f{number}", kind, number, number) for number in range(1, len(bodies) + 1)]
    return FileRow(
        path, blob or f"blob-{text}", language, len(bodies), text, 1.0, chunks, symbols, ("os", f"import_{path}")
    )


def vectors(*rows: tuple[float, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.int8]]:
    return (np.array(rows, dtype=np.float32).reshape(len(rows), -1) * 127).astype(np.int8)


AXIS = [tuple(1.0 if place == axis else 0.0 for place in range(DIMENSION)) for axis in range(DIMENSION)]


def fill(store: IndexStore, *files: FileRow, name: IndexName = NAME, commit: str = "c1") -> None:
    with write(store, name) as writer:
        for number, row in enumerate(files):
            writer.add(row, vectors(*[AXIS[(number + place) % DIMENSION] for place in range(len(row.chunks))]))
        writer.publish(commit=commit, notes={"a": "b"})


def found(store: IndexStore, word: str, filters: Filters = Filters(), name: IndexName = NAME) -> list[str]:  # noqa: B008
    reader = store.open(name)
    assert reader is not None
    hits = reader.candidates(LexicalQuery({"body": [(word, 1.0)]}, filters), 50)
    paths = [chunk.path for chunk in reader.chunks(hits.uids.tolist())]
    reader.close()
    return paths


def test_nothing_is_there_before_the_first_publication(store: IndexStore) -> None:
    assert store.open(NAME) is None
    assert store.current(NAME) is None


def test_what_was_stored_is_found(store: IndexStore) -> None:
    fill(store, file("a.py", "alpha beta", "gamma"), file("b.py", "beta beta"))
    assert found(store, "gamma") == ["a.py"]
    assert sorted(found(store, "beta")) == ["a.py", "b.py"]
    assert found(store, "beta")[0] == "b.py"
    assert found(store, "delta") == []
    reader = store.open(NAME)
    assert reader is not None
    assert (reader.state.files, reader.state.chunks, reader.state.commit) == (2, 3, "c1")
    assert dict(reader.state.notes) == {"a": "b"}
    assert dict(reader.state.languages) == {"python": 2}


def test_chunks_come_with_their_text_in_the_order_asked(store: IndexStore) -> None:
    fill(store, file("a.py", "first line", "second line"))
    reader = store.open(NAME)
    assert reader is not None
    hits = reader.candidates(LexicalQuery({"body": [("line", 1.0), ("second", 1.0)]}), 10)
    chunks = reader.chunks([*reversed(hits.uids.tolist()), 999])
    assert [(chunk.start_line, chunk.text) for chunk in chunks] == [(1, "first line"), (2, "second line")]
    assert [chunk.text for chunk in reader.file_chunks("a.py")] == ["first line", "second line"]


def test_a_chunk_tells_which_words_it_holds(store: IndexStore) -> None:
    fill(store, file("pin.py", "alpha beta", "gamma"))
    with write(store) as writer:  # what the base wrote is read through the next generation too
        writer.add(file("other.py", "delta"), vectors(AXIS[0]))
        writer.publish(commit="c2")
    reader = store.open(NAME)
    assert reader is not None
    asked = ["beta", "gamma", "pin", "delta"]
    terms = {"body": [("alpha", 1.0), ("gamma", 1.0), ("delta", 1.0)]}
    near = reader.nearest(np.array(AXIS[0], dtype=np.float32), 10, Filters(), asked)
    for hits in (reader.candidates(LexicalQuery(terms, words=asked), 10), near):
        assert hits.held.shape == (3, 4)
        texts = [chunk.text for chunk in reader.chunks(hits.uids.tolist())]
        have = {"alpha beta": {"beta", "pin"}, "gamma": {"gamma", "pin"}, "delta": {"delta"}}
        for text, row in zip(texts, hits.held.tolist(), strict=True):
            assert have[text] <= {word for word, has in zip(asked, row, strict=True) if has}
    assert reader.candidates(LexicalQuery(terms), 10).held.shape == (3, 0)


def test_candidates_tell_how_near_they_are_through_all_generations(store: IndexStore) -> None:
    fill(store, file("a.py", "pin one", "pin two"), file("b.py", "pin three"))
    for number, path in enumerate(("c.py", "a.py")):
        with write(store) as writer:
            writer.add(file(path, f"pin new{number}"), vectors(AXIS[number]))
            writer.publish(commit=path)
    reader = store.open(NAME)
    assert reader is not None
    vector = np.array([0.6, 0.8] + [0.0] * (DIMENSION - 2), dtype=np.float32)
    terms = {"body": [("pin", 1.0)]}
    hits = reader.candidates(LexicalQuery(terms, vector=vector), 10)
    assert sorted(chunk.text for chunk in reader.chunks(hits.uids.tolist())) == ["pin new0", "pin new1", "pin three"]
    assert hits.similarities is not None
    assert hits.similarities.tolist() == pytest.approx((reader.vectors(hits.uids) @ vector).tolist(), abs=1e-4)
    assert sorted(hits.similarities.tolist()) == pytest.approx([0.6, 0.8, 0.8], abs=0.02)
    paths = reader.paths(hits.files.tolist())
    assert sorted(paths[number] for number in hits.files.tolist()) == ["a.py", "b.py", "c.py"]
    assert reader.candidates(LexicalQuery(terms), 10).similarities is None


def test_hardly_a_chunk_seems_to_hold_what_it_does_not(store: IndexStore) -> None:
    letters = "bcdfghjklm"
    words = [f"{one}a{two}" for one in letters for two in letters]
    body = " ".join(words[:80])
    fill(store, file("a.py", body))
    reader = store.open(NAME)
    assert reader is not None
    terms = {"body": [(words_of(words[0]), 1.0)]}
    asked = words_of(body).split()
    assert reader.candidates(LexicalQuery(terms, words=asked), 5).held.tolist() == [[True] * len(asked)]
    absent = [f"{word}{last}" for word in words for last in letters]
    assert reader.candidates(LexicalQuery(terms, words=absent), 5).held.mean() < 0.1


def test_weights_of_fields_count(store: IndexStore) -> None:
    fill(store, file("plain.py", "pin"), file("pin.py", "other"))
    reader = store.open(NAME)
    assert reader is not None
    for heavy, first in (("body", "plain.py"), ("path", "pin.py")):
        weights = {"body": 0.1, "path": 0.1} | {heavy: 9.0}
        hits = reader.candidates(LexicalQuery({field: [("pin", weight)] for field, weight in weights.items()}), 10)
        assert reader.paths(hits.files.tolist())[int(hits.files[0])] == first


def test_vectors_come_back_and_the_nearest_are_found(store: IndexStore) -> None:
    fill(store, file("a.py", "one", "two"), file("b.py", "three"))
    reader = store.open(NAME)
    assert reader is not None
    near = reader.nearest(np.array(AXIS[1], dtype=np.float32), 2, Filters())
    assert {chunk.text for chunk in reader.chunks(near.uids.tolist())} == {"two", "three"}
    assert near.scores.tolist() == pytest.approx([1.0, 1.0], abs=0.02)
    assert reader.vectors(near.uids).tolist() == [pytest.approx(AXIS[1], abs=0.02)] * 2


@pytest.mark.parametrize(
    ("filters", "paths"),
    [
        (Filters(languages=frozenset({"go"})), ["src/b.go"]),
        (Filters(paths=("src/",)), ["src/a.py", "src/b.go"]),
        (Filters(paths=("*.py",)), ["lib/deep/c.py", "src/a.py"]),
        (Filters(paths=("src/a.py", "lib/*")), ["lib/deep/c.py", "src/a.py"]),
        (Filters(paths=("nowhere/",)), []),
        (Filters(kinds=frozenset({"class"})), ["lib/deep/c.py"]),
        (Filters(languages=frozenset({"go"}), kinds=frozenset({"class"})), []),
    ],
)
def test_filters(store: IndexStore, filters: Filters, paths: list[str]) -> None:
    fill(
        store,
        file("src/a.py", "word"),
        file("src/b.go", "word", language="go"),
        file("lib/deep/c.py", "word", kind="class"),
    )
    assert sorted(found(store, "word", filters)) == paths
    reader = store.open(NAME)
    assert reader is not None
    near = reader.nearest(np.array(AXIS[0], dtype=np.float32), 10, filters)
    assert sorted(chunk.path for chunk in reader.chunks(near.uids.tolist())) == paths


def test_a_reader_stays_on_its_generation(store: IndexStore) -> None:
    fill(store, file("a.py", "old"))
    before = store.open(NAME)
    assert before is not None
    with write(store) as writer:
        writer.add(file("a.py", "new"), vectors(AXIS[0]))
        writer.remove("missing.py")
        writer.publish(commit="c2")
    assert [chunk.text for chunk in before.file_chunks("a.py")] == ["old"]
    assert before.candidates(LexicalQuery({"body": [("old", 1.0)]}), 5).uids.size == 1
    after = store.open(NAME)
    assert after is not None
    assert after.state.generation > before.state.generation
    assert store.current(NAME) == after.state.generation
    assert found(store, "old") == []
    assert found(store, "new") == ["a.py"]
    assert after.state.chunks == 1


def test_what_is_not_published_never_was(store: IndexStore) -> None:
    fill(store, file("a.py", "kept"))
    with write(store) as writer:
        writer.remove("a.py")
        writer.add(file("b.py", "lost"), vectors(AXIS[0]))
    with contextlib.suppress(RuntimeError), write(store) as writer:
        writer.remove("a.py")
        raise RuntimeError("crash")
    assert found(store, "kept") == ["a.py"]
    assert found(store, "lost") == []


def test_another_identity_begins_empty_and_so_does_fresh(store: IndexStore) -> None:
    fill(store, file("a.py", "old"))
    for options in ({"identity": "two"}, {"fresh": True}):
        with write(store, **options) as writer:
            assert writer.base is None
            assert writer.known() == {}
            assert writer.reusable("blob-old", "python") is None
    assert found(store, "old") == ["a.py"]


def test_skipped_files_are_counted_and_known(store: IndexStore) -> None:
    with write(store) as writer:
        writer.skip("x.bin", "b1", "binary")
        writer.skip("y.key", "b2", "secret")
        writer.add(file("a.py", "word", blob="b3"), vectors(AXIS[0]))
        state = writer.publish(commit="c1")
    assert dict(state.skipped) == {"binary": 1, "secret": 1}
    with write(store) as writer:
        assert writer.known() == {"x.bin": "b1", "y.key": "b2", "a.py": "b3"}
        assert writer.known_blob("x.bin") == "b1"
        assert writer.known_blob("a.py") == "b3"
        assert writer.known_blob("z") is None
        assert writer.skipped("binary") == {"x.bin"}
        writer.add(file("x.bin", "text now", blob="b4"), vectors(AXIS[0]))
        writer.skip("a.py", "b3", "ignored")
        state = writer.publish(commit="c2")
    assert dict(state.skipped) == {"secret": 1, "ignored": 1}
    assert found(store, "now") == ["x.bin"]
    assert found(store, "word") == []


def test_a_known_content_can_be_taken_over(store: IndexStore) -> None:
    fill(store, file("a.py", "one", "two", blob="same"))
    with write(store) as writer:
        writer.remove("a.py")
        old = writer.reusable("same", "python")
        assert old is not None
        assert old.text == "one\ntwo"
        assert [(chunk.start_line, chunk.symbol, chunk.defines) for chunk in old.chunks] == [
            (1, "f1", True),
            (2, "f2", True),
        ]
        assert old.vectors.tolist() == vectors(AXIS[0], AXIS[1]).tolist()
        assert [symbol.name for symbol in old.symbols] == ["f1", "f2"]
        assert "os" in old.imports


def test_a_content_is_known_by_its_language_too(store: IndexStore) -> None:
    fill(
        store,
        file("a.py", "one", "two", blob="same"),
        file("a.md", "one", language="markdown", blob="same"),
    )
    with write(store) as writer:
        for language, chunks in (("python", 2), ("markdown", 1)):
            old = writer.reusable("same", language)
            assert old is not None
            assert len(old.chunks) == chunks
        assert writer.reusable("same", "go") is None


def test_symbols_and_imports(store: IndexStore) -> None:
    fill(store, file("a.py", "x", "y"), file("b.py", "z"))
    reader = store.open(NAME)
    assert reader is not None
    assert [(symbol.name, symbol.start_line) for symbol in reader.symbols_of("a.py")] == [("f1", 1), ("f2", 2)]
    assert [symbol.name for symbol in reader.symbols_of("a.py", 2)] == ["f2"]
    assert [symbol.name for symbol in reader.symbols_of("a.py", 1, 1)] == ["f1"]
    assert reader.symbols_of("a.py", 3, 9) == []
    assert [symbol.path for symbol in reader.definitions("f1")] == ["a.py", "b.py"]
    assert reader.definitions("F1") == []
    assert reader.imports_of("a.py") == ["import_a.py", "os"]
    assert reader.importers(["os", "nothing"]) == ["a.py", "b.py"]
    assert reader.importers(["import_b.py"]) == ["b.py"]
    stored = reader.file("a.py")
    assert stored is not None
    assert (stored.language, stored.lines) == ("python", 2)
    assert reader.file("nothing") is None
    assert reader.files() == {"a.py": "blob-x\ny", "b.py": "blob-z"}


def test_a_branch_begins_as_its_sibling_and_goes_its_own_way(store: IndexStore) -> None:
    fill(store, file("a.py", "common"), file("b.py", "main"))
    branch = IndexName("shop", "feature/x")
    with write(store, branch) as writer:
        assert writer.base is not None
        assert writer.base.commit == "c1"
        writer.add(file("b.py", "zebra"), vectors(AXIS[2]))
        writer.publish(commit="c2")
    assert found(store, "common", name=branch) == ["a.py"]
    assert found(store, "zebra", name=branch) == ["b.py"]
    assert found(store, "zebra") == []
    assert found(store, "main") == ["b.py"]


def test_the_index_of_a_branch_is_named_and_removed_alone(store: IndexStore) -> None:
    names = ["", "@default", "feature/x", "feature_x", "ümlaut", "x" * 150]
    assert store.branches("shop") == []
    for branch in names:
        fill(store, file("a.py", f"in{names.index(branch)}"), name=IndexName("shop", branch))
    fill(store, file("z.py", "word"), name=IndexName("shop-2", "feature/x"))
    assert store.branches("shop") == sorted(names)
    for number, branch in enumerate(names):
        assert found(store, f"in{number}", name=IndexName("shop", branch)) == ["a.py"]
    reader = store.open(IndexName("shop", "feature/x"))
    assert reader is not None

    store.remove("shop", "feature/x")

    assert store.branches("shop") == sorted(set(names) - {"feature/x"})
    assert store.open(IndexName("shop", "feature/x")) is None
    assert store.current(IndexName("shop", "feature/x")) is None
    assert reader.file("a.py") is not None, "a reader keeps what it opened"
    assert found(store, "in3", name=IndexName("shop", "feature_x")) == ["a.py"]
    assert found(store, "word", name=IndexName("shop-2", "feature/x")) == ["z.py"]
    store.remove("shop", "never")
    fill(store, file("b.py", "again"), name=IndexName("shop", "feature/x"))
    assert found(store, "again", name=IndexName("shop", "feature/x")) == ["b.py"]


def test_a_removed_indexs_number_does_not_come_again(store: IndexStore) -> None:
    branch = IndexName("shop", "x")
    numbers = []
    for _ in range(2):
        for name in (NAME, branch):
            fill(store, file("a.py", "word"), name=name)
            numbers.append((name, store.current(name)))
        store.remove("shop", "x")
        store.remove("shop")
    assert None not in dict(numbers).values()
    assert len(set(numbers)) == len(numbers), "who has the old one open would take the new one for it"


def test_an_index_that_is_being_written_is_not_removed_alone(store: IndexStore) -> None:
    fill(store, file("a.py", "word"))
    with write(store) as writer:
        with pytest.raises(SearchFailed) as refused:
            store.remove("shop", "")
        assert refused.value.retryable
        if not isinstance(store, SharedIndexStore):  # there it is gone for all, and this writer is refused
            writer.publish(commit="c2")
            assert store.branches("shop") == [""]


def test_projects_do_not_see_each_other(store: IndexStore) -> None:
    fill(store, file("a.py", "word"))
    other = IndexName("shop-2")
    with write(store, other) as writer:
        assert writer.base is None
    assert store.open(other) is None
    fill(store, file("z.py", "word"), name=other)
    store.remove("shop")
    assert store.open(NAME) is None
    assert found(store, "word", name=other) == ["z.py"]


def test_many_updates_stay_correct(store: IndexStore) -> None:
    fill(store, *[file(f"f{number}.py", f"word{number}x", "common") for number in range(10)])
    for turn in range(14):
        with write(store) as writer:
            writer.add(file(f"f{turn % 10}.py", f"turn{turn}x", "common"), vectors(AXIS[turn % 4], AXIS[3]))
            writer.publish(commit=f"t{turn}")
    reader = store.open(NAME)
    assert reader is not None
    assert reader.state.chunks == 20
    assert found(store, "turn13x") == ["f3.py"]
    assert found(store, "turn3x") == []
    assert found(store, "turn9x") == ["f9.py"]
    assert len(found(store, "common")) == 10
    hits = reader.candidates(LexicalQuery({"body": [("turn9x", 1.0)]}), 5)
    assert reader.vectors(hits.uids).tolist() == [pytest.approx(AXIS[1], abs=0.02)]


@pytest.mark.parametrize("path", ["new\nline.py", "quote'\".py", "ünï/😀.py", "-dash.py", "a b.py"])
def test_odd_paths_are_kept(store: IndexStore, path: str) -> None:
    fill(store, file(path, "word"))
    assert found(store, "word") == [path]


def test_odd_names_do_not_leave_the_store(store: IndexStore) -> None:
    for name in (IndexName("..", "../../x"), IndexName("a/b", "."), IndexName("a_b", "CON")):
        fill(store, file("a.py", "word"), name=name)
        assert found(store, "word", name=name) == ["a.py"]


def test_one_writer_at_a_time(store: IndexStore) -> None:
    with write(store), pytest.raises(SearchFailed) as refused:
        write(store)
    assert refused.value.retryable
    assert refused.value.reason == "index_busy"
    with write(store) as again:
        again.publish(commit="c")
