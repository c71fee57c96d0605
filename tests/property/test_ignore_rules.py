"""``.corralignore`` means what git means by the same lines in a .gitignore."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from corral.jobs.codebase_indexing.ignore import IgnoreRules

NAMES = st.text("ab.x-", min_size=1, max_size=4).filter(lambda name: name not in {".", ".."})
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
PARTS = st.one_of(
    st.text("ab.x-*?", min_size=1, max_size=5),
    st.sampled_from(["**", "***", "*", "[ab]", "[!ab]*", "[^a]?", "[a-x]b", "[]a]*", "[x-a]b", "[[:alpha:]]*", "\\*"]),
    st.sampled_from(["\\a", "a\\", "*.x", "a\\ ", "[a-]*", "[\\]x]", "[[:nope:]]", "**a", "a**b"]),
)
LINES = st.builds(
    lambda start, parts, end: start + "/".join(parts) + end,
    st.sampled_from(["", "", "", "!", "/", "!/", "#", "\\!", "\\#"]),
    st.lists(PARTS, min_size=0, max_size=4),
    st.sampled_from(["", "", "", "/", " ", "  ", "\\ ", "\r"]),
)


def ignored_by_git(lines: list[str], paths: list[str]) -> set[str]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run(["git", "init", "-q", folder], check=True)
        (root / ".gitignore").write_bytes("\n".join(lines).encode())
        command = [
            "git",
            "-C",
            folder,
            "-c",
            "core.excludesFile=/dev/null",
            "check-ignore",
            "--no-index",
            "-z",
            "--stdin",
        ]
        done = subprocess.run(command, input="\0".join(paths).encode(), capture_output=True, check=False)
        assert done.returncode in {0, 1}, done.stderr
        return set(filter(None, done.stdout.decode().split("\0")))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(LINES, min_size=1, max_size=6), st.lists(PATHS, min_size=1, max_size=12))
@example(["*", "!a/", "!*.x"], ["a/b.x", "b.x", "b/a.x", "a"])
@example(["a/**", "!a/b/"], ["a/b/x", "a", "a/x"])
@example(["[a", "b[x"], ["[a", "a", "b[x"])  # never closed; not drawn, as the next slash would be inside of it
@example(["/a/*", "!/a/b", "**/x/**/b"], ["a/b", "a/x", "x/b", "a/x/a/b", "x/a/a/b", "b/a/b"])
@example(["[x-a]b", "a\\/?", "\\/x"], ["xb", "a/a", "x", "ab"])
def test_what_is_ignored_is_what_git_ignores(lines: list[str], paths: list[str]) -> None:
    rules = IgnoreRules("\n".join(lines))
    assert {path for path in paths if path in rules} == ignored_by_git(lines, paths)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*a" * 60 + "*b", "a" * 250),
        ("x/" + "**/a/" * 60 + "b", "x/" + "a/" * 1000 + "c"),
        ("[ab]*" * 60 + "c", "ab" * 120),
    ],
)
def test_no_pattern_takes_long(pattern: str, path: str) -> None:
    # With backtracking into every star this would not end within the age of the universe.
    assert path not in IgnoreRules(pattern)
