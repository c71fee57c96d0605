"""The store on disk through kills, cuts and full memory: what is published stays whole, and the next build mends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tantivy

from corral.adapters.index import local_segment_writer, local_words, local_writer
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.local_layout import open_words
from corral.adapters.index.port import ChunkRow, FileRow, IndexName, LexicalQuery, SymbolRow
from corral.errors import SearchFailed

NAME = IndexName("shop")


def row(path: str, word: str) -> FileRow:
    chunk = ChunkRow(1, 1, word, "function", ("function",), True, {"body": word, "names": word})
    return FileRow(path, f"blob {word}", "python", 1, word, 1.0, [chunk])


def write(store: LocalIndexStore, path: str, word: str) -> None:
    with store.writer(NAME, identity="one", embedder="test", dimension=4) as writer:
        writer.add(row(path, word), np.zeros((1, 4), dtype=np.int8))
        writer.publish(commit="c")


def paths_with(store: LocalIndexStore, word: str) -> list[str]:
    reader = store.open(NAME)
    assert reader is not None
    hits = reader.candidates(LexicalQuery({"body": [(word, 1.0)]}), 10)
    found = [chunk.path for chunk in reader.chunks(hits.uids.tolist())]
    reader.close()
    return found


@pytest.mark.parametrize(
    ("place", "published"),
    [
        ("local_writer.LocalIndexWriter._publish", False),
        ("local_words.WordsWriter._bring_back", False),
        ("local_writer.LocalIndexWriter._close_segment", False),
        ("local_segment_writer.save_columns", False),
        ("local_writer.sizes_of", False),
        ("local_writer.replace_text", False),
        ("local_words.WordsWriter.close", True),
    ],
)
def test_a_writer_may_be_killed_anywhere(tmp_path: Path, place: str, published: bool) -> None:  # noqa: FBT001 - a case
    store = LocalIndexStore(tmp_path)
    write(store, "old.py", "alpha")
    module, _, name = place.partition(".")
    program = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[3])!r})
        from corral.adapters.index import {module}
        from corral.adapters.index.local import LocalIndexStore
        from tests.integration.codebase_indexing.test_local_store import write
        owner, _, attribute = {name!r}.rpartition(".")
        setattr(getattr({module}, owner) if owner else {module}, attribute,
                lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        write(LocalIndexStore(Path({str(tmp_path)!r})), "new.py", "beta")
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert paths_with(store, "alpha") == ["old.py"]
    assert paths_with(store, "beta") == (["new.py"] if published else [])
    write(store, "newest.py", "gamma")
    assert paths_with(store, "alpha") == ["old.py"]
    assert paths_with(store, "gamma") == ["newest.py"]
    left = local_words._MEMORY.glob(f"{local_words._prefix(store.folder(NAME) / 'g-00000000' / 'words')}*")
    assert list(left) == []


def write_many(store: LocalIndexStore, count: int) -> None:
    with store.writer(NAME, identity="one", embedder="test", dimension=4, fresh=True) as writer:
        for number in range(count):
            writer.add(row(f"f{number}.py", f"word{number}"), np.zeros((1, 4), dtype=np.int8))
        writer.publish(commit="c")


@pytest.mark.parametrize("wrote", [False, True])
@pytest.mark.parametrize("segment", [1, 2, 4])
def test_a_build_may_be_killed_while_it_spills(tmp_path: Path, segment: int, wrote: bool) -> None:  # noqa: FBT001
    store = LocalIndexStore(tmp_path)
    write(store, "old.py", "alpha")
    program = textwrap.dedent(
        f"""
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parents[3])!r})
        from corral.adapters.index import local_segment_writer, local_writer
        from corral.adapters.index.local import LocalIndexStore
        from tests.integration.codebase_indexing.test_local_store import write_many
        local_writer._SEGMENT_CHUNKS = 3
        save, left = local_segment_writer.save_columns, [{segment}]
        def killed(path, columns, meta):
            left[0] -= 1
            if left[0] and not {wrote}:
                return save(path, columns, meta)
            save(path, columns, meta)
            if not left[0]:
                if not {wrote}:
                    os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
        local_segment_writer.save_columns = killed
        write_many(LocalIndexStore(Path({str(tmp_path)!r})), 14)
        """
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    unpublished = store.folder(NAME) / "g-00000002"
    assert len(list(unpublished.glob("columns-*"))) == segment
    assert paths_with(store, "alpha") == ["old.py"]
    assert paths_with(store, "word1") == []
    write_many(store, 14)
    assert paths_with(store, "alpha") == []
    assert [paths_with(store, f"word{number}") for number in range(14)] == [[f"f{number}.py"] for number in range(14)]
    assert not unpublished.exists()


def test_a_spilled_file_can_be_replaced_skipped_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_writer, "_SEGMENT_CHUNKS", 3)
    store = LocalIndexStore(tmp_path)
    vectors = np.zeros((1, 4), dtype=np.int8)
    with store.writer(NAME, identity="one", embedder="test", dimension=4) as writer:
        for number in range(10):
            writer.add(row(f"f{number}.py", f"word{number}"), vectors)
        writer.add(row("f1.py", "other"), vectors)
        writer.skip("f2.py", "blob", "ignored")
        writer.remove("f4.py")
        writer.remove("f9.py")
        state = writer.publish(commit="c")
    assert (state.files, state.chunks, dict(state.skipped)) == (7, 7, {"ignored": 1})
    found = {number: paths_with(store, f"word{number}") for number in range(10)}
    assert found == {number: [] if number in {1, 2, 4, 9} else [f"f{number}.py"] for number in range(10)}
    assert paths_with(store, "other") == ["f1.py"]
    reader = store.open(NAME)
    assert reader is not None
    assert len(reader.manifest.segments) == 4
    assert reader.skipped("ignored") == {"f2.py"}
    reader.close()


def test_files_without_chunks_are_spilled_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_writer, "_SEGMENT_BYTES", 2000)
    store = LocalIndexStore(tmp_path)
    with store.writer(NAME, identity="one", embedder="test", dimension=4) as writer:
        for number in range(100):
            writer.skip(f"image{number}.png", "blob", "binary")
        assert dict(writer.publish(commit="c").skipped) == {"binary": 100}
    reader = store.open(NAME)
    assert reader is not None
    assert len(reader.manifest.segments) > 2
    assert reader.skipped("binary") == {f"image{number}.png" for number in range(100)}
    reader.close()


@pytest.mark.parametrize("kind", ["columns", "vectors", "text", "words"])
def test_a_file_cut_by_a_loss_of_power_is_noticed(tmp_path: Path, kind: str) -> None:
    store = LocalIndexStore(tmp_path)
    write(store, "old.py", "alpha")
    folder = store.folder(NAME) / "g-00000001"
    file = next(path for path in sorted(folder.rglob("*")) if path.is_file() and kind in str(path.relative_to(folder)))
    os.truncate(file, file.stat().st_size - 1)
    with pytest.raises(SearchFailed, match="index it again"):
        store.open(NAME)
    write(store, "new.py", "beta")
    assert paths_with(store, "beta") == ["new.py"]
    assert paths_with(store, "alpha") == [], "it was made anew"


def test_a_machine_without_room_in_memory_commits_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_words, "_MEMORY", tmp_path / "none")
    store = LocalIndexStore(tmp_path / "indexes")
    for word in ("alpha", "beta", "gamma"):
        write(store, f"{word}.py", word)
    assert paths_with(store, "alpha") == ["alpha.py"]
    assert paths_with(store, "gamma") == ["gamma.py"]


def test_many_small_generations_leave_few_segments_and_no_waste(tmp_path: Path) -> None:
    store = LocalIndexStore(tmp_path)
    for turn in range(40):
        write(store, f"f{turn % 5}.py", f"word{turn}")
    reader = store.open(NAME)
    assert reader is not None
    assert len(reader.manifest.segments) <= 14
    assert sum(entry.dead_chunks for entry in reader.manifest.segments) <= 14
    assert reader.state.files == 5
    reader.close()
    folder = store.folder(NAME) / f"g-{reader.state.generation:08d}"
    assert len(list(folder.glob("columns-*"))) == len(reader.manifest.segments)


@pytest.mark.parametrize("files", [5, 10, 17, 18, 30, 47])
def test_a_new_index_has_one_segment_of_words_however_many_runs_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    monkeypatch.setattr(local_words, "_RUN_CHUNKS", 10)
    store = LocalIndexStore(tmp_path)
    write_many(store, files)
    assert sizes_of_segments(store.folder(NAME) / "g-00000001/words") == [files]
    assert [paths_with(store, f"word{number}") for number in range(files)] == [[f"f{n}.py"] for n in range(files)]


def test_runs_of_their_real_size_are_merged(tmp_path: Path) -> None:
    chunks = local_words._RUNS * local_words._RUN_CHUNKS + 20_000
    words = local_words.WordsWriter(tmp_path / "words", fresh=True)
    for uid in range(chunks):
        words.add(tantivy.Document(uid=uid, file=uid, body=f"even word{uid}" if uid % 2 == 0 else "odd"))
    words.remove_file(1)
    words.commit()
    words.close()
    sizes = sizes_of_segments(tmp_path / "words")
    assert len(sizes) == 2
    assert sum(sizes) == chunks
    searcher = open_words(tmp_path / "words").searcher()
    assert searcher.num_docs == chunks - 1
    assert searcher.doc_freq("body", "even") == chunks // 2
    assert all(searcher.doc_freq("body", f"word{uid}") == 1 for uid in (0, 16_384, chunks - 2))


def sizes_of_segments(words: Path) -> list[int]:
    meta = json.loads((words / "meta.json").read_bytes())
    return [segment["max_doc"] for segment in meta["segments"]]


def test_what_is_held_back_can_be_removed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_words, "_RUN_CHUNKS", 10)
    store = LocalIndexStore(tmp_path)
    with store.writer(NAME, identity="one", embedder="test", dimension=4) as writer:
        for number in range(25):
            writer.add(row(f"f{number}.py", f"word{number}"), np.zeros((1, 4), dtype=np.int8))
        for number in (3, 21, 22, 23):
            writer.remove(f"f{number}.py")
        assert writer.publish(commit="c").files == 21
    found = {number for number in range(25) if paths_with(store, f"word{number}")}
    assert found == set(range(25)) - {3, 21, 22, 23}


def test_columns_and_names_that_are_not_held_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_segment_writer, "_HELD_ROWS", 5)
    monkeypatch.setattr(local_segment_writer, "_NAMES_KNOWN", 3)
    store = LocalIndexStore(tmp_path)
    with store.writer(NAME, identity="one", embedder="test", dimension=4) as writer:
        for number in range(20):
            name = f"name{number % 4}"
            chunk = ChunkRow(1, 2, f"{name}.run", "method", ("method",), True, {"body": f"word{number}"})
            symbols = [SymbolRow("run", "method", 2, 2, name), SymbolRow(name, "class", 1, 2)]
            file = FileRow(f"f{number}.py", f"blob {number}", "python", 2, "text", 0.5, [chunk], symbols, [name, "os"])
            writer.add(file, np.zeros((1, 4), dtype=np.int8))
        writer.publish(commit="c")
    reader = store.open(NAME)
    assert reader is not None
    assert len(reader.manifest.segments) == 1
    assert reader.files() == {f"f{number}.py": f"blob {number}" for number in range(20)}
    for number in range(20):
        name = f"name{number % 4}"
        assert [(one.name, one.start_line, one.parent) for one in reader.symbols_of(f"f{number}.py")] == [
            (name, 1, ""),
            ("run", 2, name),
        ]
        assert reader.imports_of(f"f{number}.py") == [name, "os"]
        assert [chunk.symbol for chunk in reader.file_chunks(f"f{number}.py")] == [f"{name}.run"]
    assert {one.path for one in reader.definitions("name1")} == {f"f{number}.py" for number in (1, 5, 9, 13, 17)}
    assert len(reader.definitions("run")) == len(reader.importers(["os"])) == 20
    reader.close()
