from __future__ import annotations

import os
from pathlib import Path

import pytest

from corral.jobs.test_execution.hostile_files import UnsafeFileError, read_bounded, written_files


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c\nd").write_text("x")
    assert read_bounded(tmp_path, "a/b/c\nd", most_bytes=10) == b"x"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", ""])
def test_paths_outside_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(UnsafeFileError):
        read_bounded(tmp_path, path, most_bytes=10)


def test_links_pipes_folders_and_large_files_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("s")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(secret / "file")
    (tree / "folder").symlink_to(secret)
    (tree / "inner").mkdir()
    os.mkfifo(tree / "fifo")
    (tree / "large").write_bytes(b"x" * 11)
    for path in ("link", "folder/file", "fifo", "inner", "large", "missing", "large/x"):
        with pytest.raises((UnsafeFileError, OSError)):
            read_bounded(tree, path, most_bytes=10)


def test_written_files_are_found_but_not_behind_links(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "new").write_text("x")
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "x").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert [path for path, _ in written_files(tmp_path, since=0)] == ["a/new"]
    assert list(written_files(tmp_path, since=4e9)) == []
