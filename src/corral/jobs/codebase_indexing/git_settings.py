"""What a folder's repository is set to, read without git where that is enough.

A repository's settings may name programs that git runs while it only looks: a filter, to compare a file with what was
committed. Whoever serves a folder has not said that they trust all that lies in it.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from corral.errors import GitFailed
from corral.jobs.codebase_indexing.git_program import run

_MAX_BYTES = 1_000_000
_FILTER_OFF = {"clean": "", "smudge": "", "process": "", "required": "false"}


def git_dir_of(root: Path) -> Path:
    """Where the repository of a worktree is: its ``.git``, or where that file points."""
    here = root / ".git"
    if here.is_file():
        word, _, path = _read(here).decode("utf-8", "surrogateescape").strip().partition(": ")
        if word == "gitdir":
            return root / path
    return here


def without_filters(root: Path) -> dict[str, str]:
    """Settings that keep git from running the filters which a repository names; mostly there are none."""
    git_dir = git_dir_of(root)
    common = _read(git_dir / "commondir").decode("utf-8", "surrogateescape").strip()
    files = [(git_dir / common if common else git_dir) / "config", git_dir / "config.worktree"]
    texts = [_read(file).lower() for file in files]
    if not any(b"filter" in text or b"include" in text or len(text) == _MAX_BYTES for text in texts):
        return {}
    keys = run(["--git-dir", str(root / ".git"), "config", "--list", "--name-only", "-z"]).split(b"\0")
    names = {key[7:].rpartition(b".")[0] for key in keys if key.startswith(b"filter.")}
    return {
        f"filter.{name.decode('utf-8', 'surrogateescape')}.{key}": value
        for name in names
        for key, value in _FILTER_OFF.items()
    }


def left_out_of_checkout(root: Path) -> frozenset[str]:
    """Committed files that a sparse checkout keeps out of the folder."""
    if not (git_dir_of(root) / "info/sparse-checkout").exists():
        return frozenset()
    printed = run(["--git-dir", str(root / ".git"), "ls-files", "-t", "-z"]).split(b"\0")
    paths = (record[2:].decode("utf-8", "surrogateescape") for record in printed if record.startswith(b"S "))
    return frozenset(path for path in paths if not _is_there(root / path))


def head_of(bare: Path) -> str | None:
    """The commit that a bare repository shows, ``""`` before the first one; None for a folder that is none."""
    if not all((bare / name).is_dir() for name in ("objects", "refs")) or not (bare / "HEAD").is_file():
        return None
    try:
        return run(["--git-dir", str(bare), "rev-parse", "--verify", "--quiet", "HEAD^{commit}"]).decode().strip()
    except GitFailed:
        return ""


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _read(path: Path) -> bytes:
    """A file's beginning; nothing of one that isn't there."""
    if not path.is_file():  # a pipe would wait for its other end
        return b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(_MAX_BYTES)
    return b""
