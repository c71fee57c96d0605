from __future__ import annotations

import pytest

from corral.adapters import words
from corral.adapters.words import is_identifier, split_identifier, stem, words_of


@pytest.mark.parametrize(
    ("forms", "shared"),
    [
        (("caching", "cached", "caches", "cache"), "cach"),
        (("validate", "validation", "validates", "validator"), "validat"),
        (("parser", "parsing", "parse", "parsed"), "pars"),
        (("entries", "entry"), "entry"),
        (("stopping", "stops", "stop"), "stop"),
    ],
)
def test_inflections_share_a_stem(forms: tuple[str, ...], shared: str) -> None:
    assert {stem(form) for form in forms} == {shared}


@pytest.mark.parametrize("word", ["class", "status", "this", "user", "order", "action", "version", "id", "os"])
def test_words_that_only_look_inflected_stay(word: str) -> None:
    assert stem(word) == word


@pytest.mark.parametrize(
    ("identifier", "parts"),
    [
        ("getUserName", ["get", "user", "name"]),
        ("HTTPServerError", ["http", "server", "error"]),
        ("snake_case_2_words", ["snake", "case", "2", "words"]),
        ("utf8Decoder", ["utf", "8", "decoder"]),
        ("größeÄndern", ["gr", "öß", "e", "ä", "ndern"]),
    ],
)
def test_identifiers_split_at_their_joints(identifier: str, parts: list[str]) -> None:
    assert split_identifier(identifier) == parts


def test_a_compound_gives_its_parts_and_itself() -> None:
    assert words_of("x.getUserNames(42)").split() == ["x", "get", "user", "name", "getusernames"]


def test_hashes_and_small_numbers_are_no_words() -> None:
    assert words_of(f"{'a1' * 60} 7 42 404").split() == ["404"]


@pytest.mark.parametrize("query", ["QuerySet.prefetch_related", "run_job()", "Foo::bar", "x->y"])
def test_a_bare_name_is_an_identifier(query: str) -> None:
    assert is_identifier(query)


@pytest.mark.parametrize("query", ["", "  ", "two words", "what?"])
def test_prose_is_no_identifier(query: str) -> None:
    assert not is_identifier(query)


def test_what_is_too_long_to_be_a_name_is_not_kept() -> None:
    words_of("short_name")
    before = len(words._spelling)
    assert words_of(" ".join("x" * length for length in range(81, 200))).split() == []
    assert len(words._spelling) == before
