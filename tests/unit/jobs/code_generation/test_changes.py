from __future__ import annotations

from pathlib import Path

import pytest

from corral.jobs.code_generation.changes import Changes, Version
from corral.jobs.code_generation.worktree import PathRefusedError, Worktree


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "run").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "run").chmod(0o755)
    (tmp_path / "a.py").write_text("a = 1\n")
    return tmp_path


@pytest.fixture
def changes(root: Path) -> Changes:
    return Changes(Worktree(root))


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {path.relative_to(root).as_posix(): (path.read_bytes(), path.stat().st_mode & 0o777) for path in files}


def test_what_was_done_is_taken_back_with_modes(root: Path, changes: Changes) -> None:
    before = state(root)
    changes.write("bin/run", None)
    changes.write("a.py", b"a = 2\n")
    changes.write("new/b.py", b"b = 1\n")
    best = changes.changed()
    assert best == {"bin/run": None, "a.py": Version(b"a = 2\n"), "new/b.py": Version(b"b = 1\n")}
    after = state(root)
    changes.restore()
    assert state(root) == before
    assert changes.changed() == {}
    changes.restore(best)
    assert state(root) == after


def test_a_renamed_program_can_still_be_run(root: Path, changes: Changes) -> None:
    changes.write_all({"bin/run": None, "bin/start": b"#!/bin/sh\n"}, renamed={"bin/start": "bin/run"})
    assert state(root)["bin/start"] == (b"#!/bin/sh\n", 0o755)
    best = changes.changed()
    changes.restore()
    changes.restore(best)
    assert state(root)["bin/start"][1] == 0o755


def test_all_files_are_written_or_none(root: Path, changes: Changes) -> None:
    (root / "sub").mkdir()
    before = state(root)
    with pytest.raises(PathRefusedError):
        changes.write_all({"a.py": b"a = 3\n", "bin/run": None, "new.py": b"", "sub/x.py": b""})
    assert state(root) == before
    assert changes.changed() == {}


def test_the_digest_tells_changes_apart(changes: Changes) -> None:
    digests = {changes.digest()}
    changes.write("a.py", b"a = 2\n")
    digests.add(changes.digest())
    changes.write("a.py", b"a = 2\n", executable=True)
    digests.add(changes.digest())
    changes.write("a.py", None)
    digests.add(changes.digest())
    assert len(digests) == 4


def test_syntax_is_checked_and_nothing_that_a_file_holds_breaks_the_check(changes: Changes) -> None:
    changes.write("a.py", b"def f(:\n")
    changes.write("b.json", b"{")
    changes.write("c.json", b"[" * 100_000)
    changes.write("d.py", b"(" * 100_000 + b")" * 100_000)
    changes.write("e.py", b"\x00")
    said = changes.syntax_errors()
    assert [line.partition(",")[0] for line in said.splitlines()] == ["a.py", "b.json", "c.json", "d.py", "e.py"]
