"""The store on disk through kills, cuts and full memory: what is published stays whole, and the next build mends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from corral.adapters.index import local_words
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import ChunkRow, FileRow, IndexName, LexicalQuery
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
        ("local_segment.save_columns", False),
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
