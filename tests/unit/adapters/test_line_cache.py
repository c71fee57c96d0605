from __future__ import annotations

from itertools import pairwise

import pytest

from corral.adapters.index.local_lines import LineCache

TEXT = "one\ntwo\n\nfour \u00e4\nfive"


def never() -> bytes:
    raise AssertionError("expected the kept text, was asked to load it")


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n", "", "\n", "only"])
def test_every_run_of_lines_is_what_splitting_gives(text: str) -> None:
    cache = LineCache()
    lines = text.split("\n")
    for start in range(1, len(lines) + 2):
        for end in range(start, len(lines) + 3):
            expected = "\n".join(lines[start - 1 : end])
            assert cache.lines("key", text.encode, start, end) == expected, (start, end)


def test_a_kept_text_is_not_loaded_again() -> None:
    cache = LineCache()
    cache.lines("key", TEXT.encode, 1, 1)
    assert cache.lines("key", never, 2, 2) == "two"


def test_no_more_is_kept_than_allowed_and_the_oldest_goes_first() -> None:
    cache = LineCache(limit_bytes=250)
    for key in "abab":
        cache.lines(key, lambda: b"x" * 100, 1, 1)
    cache.lines("c", lambda: b"x" * 100, 1, 1)
    with pytest.raises(AssertionError):
        cache.lines("a", never, 1, 1)
    assert cache.lines("b", never, 1, 1) == "x" * 100


def test_a_text_larger_than_allowed_is_still_answered() -> None:
    cache = LineCache(limit_bytes=10)
    lines = ["x" * 8] * 4
    for (first, _), (second, _) in pairwise(enumerate(lines, start=1)):
        assert cache.lines("key", "\n".join(lines).encode, first, second) == "x" * 8 + "\n" + "x" * 8
