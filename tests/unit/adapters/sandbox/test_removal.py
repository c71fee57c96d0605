from __future__ import annotations

import os
from pathlib import Path

from corral.adapters.sandbox.removal import remove_tree


def test_everything_is_removed_and_nothing_behind_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    tree = tmp_path / "tree"
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file\nname").write_text("x")
    (tree / "link").symlink_to(outside)
    (tree / "a" / "link").symlink_to(outside / "kept")
    os.mkfifo(tree / "fifo")
    (tree / "a" / "b").chmod(0)
    (tree / "a").chmod(0)
    remove_tree(tree)
    assert not tree.exists()
    assert (outside / "kept").read_text() == "x"


def test_chains_deeper_than_any_path(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    folder = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=folder)
        inner = os.open("deep", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    remove_tree(tree)
    assert not tree.exists()


def test_a_link_or_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove_tree(tmp_path / "link")
    assert (tmp_path / "kept").exists()
    assert not (tmp_path / "link").is_symlink()
    remove_tree(tmp_path / "missing")
