from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corral.jobs.code_generation.matching.found import How, Missed, Placed
from corral.jobs.code_generation.matching.ladder import place

FILE = """\
import os


def area(width, height):
    if width < 0:
        raise ValueError("negative")
    return width * height


def perimeter(width, height):
    if height < 0:
        raise ValueError("negative")
    return 2 * (width + height)
""".splitlines()


def applied(lines: list[str], search: str, replace: str) -> tuple[How, list[str]]:
    found = place(lines, search.splitlines(), replace.splitlines())
    assert isinstance(found, Placed), found
    return found.how, [*lines[: found.start], *found.lines, *lines[found.end :]]


def changed(number: int, line: str, lines: list[str] = FILE) -> list[str]:
    return [*lines[: number - 1], line, *lines[number:]]


@pytest.mark.parametrize(
    ("search", "replace", "how"),
    [
        ("    return width * height", "    return height * width", How.EXACT),
        ("    return width * height  ", "    return height * width", How.TRAILING_SPACE),
        ("return width * height", "return height * width", How.INDENTATION),
        ("\treturn width * height", "\treturn height * width", How.INDENTATION),
        ("    return width*height", "    return height * width", How.SPACING),
    ],
)
def test_each_rung_finds_its_place(search: str, replace: str, how: Any) -> None:
    assert applied(FILE, search, replace) == (how, changed(7, "    return height * width"))


def test_typographic_quotes_are_found_and_the_quoted_line_keeps_its_own() -> None:
    search = "        raise ValueError(“negative”)\n    return width * height"
    replace = "        raise ValueError(“negative”)\n    return abs(width * height)"
    assert applied(FILE, search, replace) == (How.LOOK_ALIKES, changed(7, "    return abs(width * height)"))


def test_what_occurs_twice_is_refused_and_says_where() -> None:
    found = place(FILE, ['        raise ValueError("negative")'], ["        raise TypeError"])
    assert isinstance(found, Missed)
    assert "occur 2 times (at lines 6, 12)" in found.why


def test_what_is_nowhere_is_refused_with_the_nearest_lines() -> None:
    found = place(FILE, ["    return 2 * (width - height)", "x = 1"], ["    return 0"])
    assert isinstance(found, Missed)
    assert "return 2 * (width + height)" in found.nearest


def test_new_lines_get_the_tabs_of_the_file() -> None:
    lines = ["def f():", "\tif a:", "\t\tgo()", "\treturn 1"]
    search = "    if a:\n        go()"
    replace = "    if a:\n        go()\n        stop()\n        if b:\n            wait()"
    how, new = applied(lines, search, replace)
    assert how is How.INDENTATION
    assert new == ["def f():", "\tif a:", "\t\tgo()", "\t\tstop()", "\t\tif b:", "\t\t\twait()", "\treturn 1"]


def test_an_indentation_that_nothing_tells_is_refused() -> None:
    # Four quoted for eight real: shifted by four, or levels twice as wide? The new line differs between the two.
    found = place(["        go()"], ["    go()"], ["    go()", "        deeper()"])
    assert isinstance(found, Missed)
    assert "indentation can't be told" in found.why


def test_elided_lines_stay() -> None:
    search = "def area(width, height):\n    # ...\n    return width * height"
    replace = "def area(width: int, height: int) -> int:\n    # ...\n    return width * height"
    assert applied(FILE, search, replace) == (How.ELIDED, changed(4, "def area(width: int, height: int) -> int:"))


def test_lines_elided_on_one_side_only_are_refused() -> None:
    found = place(FILE, "def area(width, height):\n    # ...\n    return width * height".splitlines(), ["pass"])
    assert isinstance(found, Missed)
    assert "not as many times" in found.why


def test_stale_context_is_kept_as_it_is_now() -> None:
    now = changed(5, "    if width < 0 and strict:")
    search = (
        'def area(width, height):\n    if width < 0:\n        raise ValueError("negative")\n    return width * height'
    )
    replace = search.replace("return width * height", "return height * width")
    how, new = applied(now, search, replace)
    assert how is How.FUZZY
    assert new == changed(7, "    return height * width", now)


def test_a_stale_target_is_refused() -> None:
    now = changed(7, "    return width * height * scale")
    search = "\n".join(FILE[3:7])
    found = place(now, search.splitlines(), search.replace("width * height", "height * width").splitlines())
    assert isinstance(found, Missed)


def test_lines_that_came_in_between_are_not_overwritten() -> None:
    now = [*FILE[:5], "        log(width)", *FILE[5:]]
    search = "\n".join(FILE[3:7])
    replace = search.replace(
        "    if width < 0:\n        raise ValueError", "    if width <= 0:\n        raise TypeError"
    )
    assert isinstance(place(now, search.splitlines(), replace.splitlines()), Missed)


def test_an_exact_twin_with_other_indentation_is_no_substitute_for_the_changed_original() -> None:
    twin = ["class A:", "    one()", "    two()", "    three()", "", "one()", "two_changed()", "three()"]
    found = place(twin, ["one()", "two()", "three()"], ["one()", "zero()", "two()", "three()"])
    assert isinstance(found, Missed)


def test_an_empty_search_has_no_place() -> None:
    assert isinstance(place(FILE, ["", "  "], ["x"]), Missed)


LINES = st.lists(st.sampled_from(["a = 1", "b = 2", "    c(d)", "    return a", "", "def f():", "x"]), max_size=14)


@settings(max_examples=300, deadline=None)
@given(LINES, LINES, LINES)
def test_a_place_is_always_the_only_one_and_outside_of_it_nothing_changes(
    lines: list[str], search: list[str], replace: list[str]
) -> None:
    found = place(lines, search, replace)
    if isinstance(found, Missed):
        return
    solid = [line.split() for line in search if line.strip()]
    real = [line.split() for line in lines[found.start : found.end] if line.strip()]
    if found.how is How.EXACT:
        block = lines[found.start : found.end]
        assert sum(lines[at : at + len(block)] == block for at in range(len(lines) - len(block) + 1)) == 1
    if found.how not in {How.ELIDED, How.FUZZY}:
        assert ["".join(words) for words in real] == ["".join(words) for words in solid]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000))
def test_replacing_with_the_same_lines_changes_nothing(seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311 - a test's
    start = chance.randrange(len(FILE))
    block = FILE[start : start + chance.randrange(1, 6)]
    found = place(FILE, block, block)
    if isinstance(found, Placed):
        assert [*FILE[: found.start], *found.lines, *FILE[found.end :]] == FILE
