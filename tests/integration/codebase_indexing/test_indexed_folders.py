"""Indexes of folders that were deleted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.integration.codebase_indexing.test_local_store import row

from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import IndexName
from corral.jobs.codebase_indexing.indexed_folders import IndexedFolders


def indexed(folders: IndexedFolders, store: LocalIndexStore, folder: Path) -> IndexName:
    folder.mkdir(parents=True)
    name = IndexName(f"folder-{folder.name}")
    folders.remember(name.project_id, folder)
    with store.writer(name, identity="one", embedder="test", dimension=4) as writer:
        writer.add(row("a.py", "alpha"), np.zeros((1, 4), dtype=np.int8))
        writer.publish(commit="c")
    return name


def test_the_index_of_a_deleted_folder_goes_and_no_other(tmp_path: Path) -> None:
    store = LocalIndexStore(tmp_path / "indexes")
    folders = IndexedFolders(tmp_path / "indexes", store)
    there, gone = (indexed(folders, store, tmp_path / name) for name in ("there", "gone"))
    inside = indexed(folders, store, tmp_path / "above" / "inside")
    other = IndexName("a-project")
    with store.writer(other, identity="one", embedder="test", dimension=4) as writer:
        writer.publish(commit="c")
    (tmp_path / "gone").rmdir()
    (tmp_path / "above" / "inside").rmdir()
    (tmp_path / "above").rmdir()
    (tmp_path / "above").write_text("a file now")

    assert folders.forget_gone() == [tmp_path / "gone", tmp_path / "above" / "inside"]

    assert [store.current(name) is not None for name in (there, gone, inside, other)] == [True, False, False, True]
    assert folders.forget_gone() == []


def test_an_index_that_is_being_written_stays_until_the_next_time(tmp_path: Path) -> None:
    store = LocalIndexStore(tmp_path / "indexes")
    folders = IndexedFolders(tmp_path / "indexes", store)
    name = indexed(folders, store, tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with store.writer(name, identity="one", embedder="test", dimension=4):
        assert folders.forget_gone() == []
        assert store.current(name) == 1
    assert folders.forget_gone() == [tmp_path / "gone"]
    assert store.current(name) is None


def test_a_folder_that_can_not_be_looked_at_keeps_its_index(tmp_path: Path) -> None:
    store = LocalIndexStore(tmp_path / "indexes")
    folders = IndexedFolders(tmp_path / "indexes", store)
    name = indexed(folders, store, tmp_path / "above" / "inside")
    (tmp_path / "above" / "inside").rmdir()
    (tmp_path / "above").rmdir()
    (tmp_path / "above").symlink_to("above")  # leads to itself: who knows what is behind it
    assert folders.forget_gone() == []
    assert store.current(name) == 1
