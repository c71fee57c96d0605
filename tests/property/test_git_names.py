"""Names and trailers: what we say must be what git says."""

from __future__ import annotations

import subprocess

from hypothesis import given, settings
from hypothesis import strategies as st

from corral.adapters.git import is_branch_name
from corral.adapters.mirror import with_trailers

_parts = st.sampled_from(["a", "B", "/", ".", "..", "-", "@", "{", "@{", "~", "^", ":", "?", "*", "[", "\\", " ",
                          ".lock",
                          "ü", "//", "/.", "HEAD", "+", "=", "x.y", "\x7f", "\t", "\n"])  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(_parts, min_size=1, max_size=5).map("".join))
def test_a_branch_name_is_one_exactly_when_git_takes_it(name: str) -> None:
    told = subprocess.run(["git", "check-ref-format", f"refs/heads/{name}"], check=False).returncode == 0
    dash_or_head = name.startswith("-") or name == "HEAD"  # git branch refuses these on top
    assert is_branch_name(name) is (told and not dash_or_head)


_characters = st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp"))
_subject = st.text(_characters, min_size=1, max_size=40).map(str.strip).filter(lambda text: text[:1] not in {"", "#"})
_body = st.lists(_subject, max_size=3).map("\n\n".join)


@settings(max_examples=60, deadline=None)
@given(_subject, _body)
def test_git_reads_the_trailers_that_we_write(subject: str, body: str) -> None:
    trailers = {"Corral-Task": "7", "Corral-User": "ada"}
    message = with_trailers(f"{subject}\n\n{body}" if body else subject, trailers)
    read = subprocess.run(
        ["git", "interpret-trailers", "--parse"], input=message, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert read[-2:] == ["Corral-Task: 7", "Corral-User: ada"]
    assert with_trailers(message, trailers) == message
