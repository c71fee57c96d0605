from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corral.adapters.llm.surrogates import MendedStream, mended

ANY_TEXT = st.lists(st.sampled_from(["a", "é", "\U0001f600", "\ud83d", "\ude00", "\ufeff"]), max_size=8).map("".join)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""), ("plain", "plain"), ("é\U0001f600\ufeff", "é\U0001f600\ufeff"),
        ("\ufeff\ud83d\ude00", "\ufeff\U0001f600"),
        ("a\ud83d", "a\ufffd"), ("\ude00\ud83d", "\ufffd\ufffd"),
    ],
)  # fmt: skip
def test_halves_are_joined_or_replaced(text: str, whole: str) -> None:
    assert mended(text) == whole


@given(ANY_TEXT, st.data())
def test_a_stream_says_the_same_however_it_is_cut(text: str, data: st.DataObject) -> None:
    stream = MendedStream()
    told = ""
    at = 0
    while at < len(text):
        end = data.draw(st.integers(at + 1, len(text)))
        told += stream.feed(text[at:end])
        told.encode()
        at = end
    assert told + stream.end() == mended(text)
