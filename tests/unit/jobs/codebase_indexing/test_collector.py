"""The garbage collector's threshold during builds."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from corral.jobs.codebase_indexing.collector import patient_collector


@pytest.fixture
def before() -> Iterator[tuple[int, int, int]]:
    original = gc.get_threshold()
    gc.set_threshold(600, 9, 9)
    yield (600, 9, 9)
    gc.set_threshold(*original)


def test_it_looks_less_often_and_then_as_before(before: tuple[int, int, int]) -> None:
    with patient_collector():
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_threshold() == before


def test_the_last_of_several_builds_puts_it_back(before: tuple[int, int, int]) -> None:
    first, second = patient_collector(), patient_collector()
    with first:
        second.__enter__()
    assert gc.get_threshold() != before
    second.__exit__(None, None, None)
    assert gc.get_threshold() == before


def test_a_build_that_fails_puts_it_back(before: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="broken"), patient_collector():
        raise ValueError("broken")
    assert gc.get_threshold() == before
