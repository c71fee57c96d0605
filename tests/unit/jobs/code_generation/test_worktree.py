from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from corral.jobs.code_generation.worktree import PathRefusedError, Worktree


@pytest.fixture
def tree(tmp_path: Path) -> Any:
    (tmp_path / "repo" / "src").mkdir(parents=True)
    (tmp_path / "repo" / "src" / "a.py").write_text("a = 1\n")
    (tmp_path / "secret").write_text("secret\n")
    return Worktree(tmp_path / "repo")


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../secret", "src/../../secret", ".git/config", "src/.git/hooks/x", ".GIT/config", ".git./x",
     "git~1/config", "a\x00b", ".Git/hooks/pre-commit", ".git ./x", ".g\u200cit/config", ".git\u2063/config",
     ".git::$INDEX_ALLOCATION/config", ".git:x/config", "GIT~1/hooks", "sub/.gIt/HEAD", "src\\..\\..\\secret",
     "a\nb.py", "a\x1b[2Jb.py", "./../secret", "src/./../../secret"],
)  # fmt: skip
def test_paths_outside_and_in_git_are_refused(tree: Worktree, path: str) -> None:
    for act in (tree.read, tree.remove, lambda one: tree.write(one, b"x")):
        with pytest.raises(PathRefusedError):
            act(path)


def test_links_are_never_followed(tree: Worktree, tmp_path: Path) -> None:
    (tree.root / "file-link").symlink_to(tmp_path / "secret")
    (tree.root / "folder-link").symlink_to(tmp_path)
    for path in ("file-link", "folder-link/secret"):
        with pytest.raises(PathRefusedError):
            tree.write(path, b"x")
    with pytest.raises(PathRefusedError):
        tree.read("file-link")
    assert tree.read("folder-link/secret") is None
    assert (tmp_path / "secret").read_text() == "secret\n"
    assert tree.files() == ["src/a.py"]


def test_a_second_name_of_a_file_outside_is_not_written(tree: Worktree, tmp_path: Path) -> None:
    os.link(tmp_path / "secret", tree.root / "hard")
    with pytest.raises(PathRefusedError):
        tree.write("hard", b"x")
    assert (tmp_path / "secret").read_text() == "secret\n"


def test_pipes_are_no_files(tree: Worktree) -> None:
    os.mkfifo(tree.root / "pipe")
    with pytest.raises(PathRefusedError):
        tree.read("pipe")


def test_the_mode_of_a_file_stays(tree: Worktree) -> None:
    script = tree.root / "run.sh"
    script.write_text("old")
    script.chmod(0o755)
    tree.write("./run.sh", b"new")
    assert script.read_bytes() == b"new"
    assert script.stat().st_mode & 0o777 == 0o755


def test_folders_are_made_for_new_files(tree: Worktree) -> None:
    tree.write("deep/er/new.py", b"x")
    assert tree.read("deep/er/new.py") == b"x"
    tree.remove("deep/er/new.py")
    assert tree.read("deep/er/new.py") is None


def test_a_new_file_may_not_be_run_unless_it_is_said(tree: Worktree) -> None:
    tree.write("plain.sh", b"x")
    tree.write("run.sh", b"x", executable=True)
    assert not (tree.root / "plain.sh").stat().st_mode & 0o111
    assert (tree.root / "run.sh").stat().st_mode & 0o111 == 0o111
    tree.write("run.sh", b"y", executable=False)
    assert not tree.is_executable("run.sh")


@pytest.mark.parametrize("path", ["sub/a.py", "sub/deep/a.py"])
def test_submodules_are_other_repositories(tree: Worktree, path: str) -> None:
    (tree.root / "sub").mkdir()  # as git leaves the place of one that is not fetched
    with pytest.raises(PathRefusedError, match="submodule"):
        tree.write(path, b"x")
    (tree.root / "sub" / ".git").write_text("gitdir: ../../elsewhere\n")
    with pytest.raises(PathRefusedError, match="submodule"):
        tree.write(path, b"x")


def test_a_folder_that_becomes_empty_is_gone_and_can_be_filled_again(tree: Worktree) -> None:
    tree.remove("src/a.py")
    assert not (tree.root / "src").exists()
    tree.write("src/b.py", b"x")
    assert tree.files() == ["src/b.py"]


def test_a_folder_is_no_file(tree: Worktree) -> None:
    for act in (tree.read, tree.remove, lambda one: tree.write(one, b"x")):
        with pytest.raises(PathRefusedError):
            act("src")


def test_a_huge_file_is_not_read(tree: Worktree) -> None:
    with (tree.root / "huge.bin").open("wb") as file:
        file.truncate(3 << 20)
    with pytest.raises(PathRefusedError, match="too large"):
        tree.read("huge.bin")
