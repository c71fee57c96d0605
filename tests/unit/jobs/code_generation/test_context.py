from __future__ import annotations

from typing import Any

import pytest

from corral.jobs.code_generation.context import is_test, mentioned_names, related_code, target_file
from corral.jobs.code_generation.fences import code_of, has_elision
from corral.jobs.code_generation.session import CodeHit, tokens_of

FILES = ["README.md", "src/app/auth.py", "src/app/billing.py", "tests/test_auth.py", "web/login.ts"]


@pytest.mark.parametrize(
    ("prompt", "found", "expected"),
    [
        ("Change src/app/billing.py", [], "src/app/billing.py"),
        ("Change `billing.py`, please.", [], "src/app/billing.py"),
        ("Make tests/test_auth.py pass by mending auth.py", [], "src/app/auth.py"),
        ("Create src/app/report.py", [], "src/app/report.py"),
        ("Speed it up", ["tests/test_auth.py", "web/login.ts"], "web/login.ts"),
        ("The billing page is wrong", [], "src/app/billing.py"),
        ("Extend tests/test_auth.py", [], "tests/test_auth.py"),
    ],
)
def test_the_file_that_a_prompt_is_about(prompt: str, found: Any, expected: str) -> None:
    assert target_file(prompt=prompt, given=(), files=FILES, found=found) == expected


def test_an_empty_repository_gets_a_first_file() -> None:
    assert target_file(prompt="Write a game", given=(), files=[], found=()) == "main.py"


def test_names_of_a_prompt() -> None:
    prompt = "Add `merge(spans)` to Agenda and call parse_span(), see `agenda.total` and MeetingRoom"
    assert mentioned_names(prompt) == ["merge", "parse_span", "total", "MeetingRoom"]


@pytest.mark.parametrize(
    "path", ["tests/a.py", "test_a.py", "pkg/a_test.go", "a.spec.ts", "__tests__/a.js", "conftest.py"]
)
def test_tests_are_known_by_their_names(path: str) -> None:
    assert is_test(path)


@pytest.mark.parametrize("path", ["latest.py", "contest/a.py", "src/attest.ts", "testing.py"])
def test_other_files_are_no_tests(path: str) -> None:
    assert not is_test(path)


def test_code_is_what_stands_in_fences() -> None:
    assert code_of("Here:\n```python\na = 1\n```\nand\n~~~\nb = 2\n~~~\n") == "a = 1\n\nb = 2\n"
    assert code_of("```python\na = 1\n") == "a = 1\n"
    assert code_of("a = 1\n") == "a = 1\n"


@pytest.mark.parametrize(
    "code",
    [
        "x = 1\n# ... rest of the code unchanged\n",
        "// ...\n",
        "    # … existing methods\n",
        "(the rest stays the same)\n",
    ],
)
def test_elisions_are_seen(code: str) -> None:
    assert has_elision(code)


@pytest.mark.parametrize(
    "code", ["x = ...\n", "class A: ...\n", "# the rest of the day\n", "def rest(): return other\n", "    ...\n"]
)
def test_code_that_only_resembles_one_is_none(code: str) -> None:
    assert not has_elision(code)


def test_tokens_are_not_underestimated() -> None:
    assert tokens_of("x" * 3200) >= 1000


def test_related_code_comes_with_its_places() -> None:
    hits = [CodeHit(path=f"{n}.py", start_line=1, end_line=2, symbol="", score=1.0, text="x\n") for n in range(2)]
    assert related_code(hits) == "[0.py:1-2]\nx\n\n[1.py:1-2]\nx"
    assert related_code([]) == ""
