from __future__ import annotations

import pytest

from corral.adapters.index.local_lines import LineCache, Lines

TEXT = "one\ntwo\n\nfour \u00e4\nfive"


@pytest.mark.parametrize("text", [TEXT, TEXT + "\n", "", "\n", "only"])
def test_every_run_of_lines_is_what_splitting_gives(text: str) -> None:
    kept = Lines(text.encode())
    lines = text.split("\n")
    for start in range(1, len(lines) + 2):
        for end in range(start, len(lines) + 3):
            assert kept.between(start, end) == "\n".join(lines[start - 1 : end]), (start, end)


def test_a_text_is_kept() -> None:
    cache = LineCache()
    assert cache.get("key") is None
    cache.keep("key", TEXT.encode())
    kept = cache.get("key")
    assert kept is not None
    assert kept.between(2, 2) == "two"
    cache.clear()
    assert cache.get("key") is None


def test_no_more_is_kept_than_allowed_and_what_was_asked_for_longest_ago_goes_first() -> None:
    cache = LineCache(limit_bytes=250)
    for key in "ab":
        cache.keep(key, b"x" * 100)
    cache.get("a")
    cache.keep("c", b"x" * 100)
    assert cache.get("b") is None
    assert cache.get("a") is not None
    assert cache.get("c") is not None


def test_a_text_larger_than_allowed_is_kept_until_the_next_one() -> None:
    cache = LineCache(limit_bytes=10)
    assert cache.keep("large", b"x" * 100).between(1, 1) == "x" * 100
    assert cache.get("large") is not None
    cache.keep("next", b"y")
    assert cache.get("large") is None


def test_a_text_kept_twice_counts_once() -> None:
    cache = LineCache(limit_bytes=250)
    for _ in range(5):  # as when threads read the same one at the same time
        cache.keep("a", b"x" * 100)
    cache.keep("b", b"x" * 100)
    assert cache.get("a") is not None
