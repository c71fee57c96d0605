from __future__ import annotations

import numpy as np
import pytest

from corral.adapters.index.port import Candidates
from corral.jobs.codebase_indexing.ranking import path_prior, rank, stem_words, terms, understood, why


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("src/app/cache.py", "tests/test_cache.py"),
        ("src/app/cache.py", "examples/cache.py"),
        ("src/app/cache.py", "vendor/lib/cache.py"),
        ("src/app/cache.py", "docs/cache.md"),
        ("src/app/cache.ts", "src/app/cache.d.ts"),
    ],
)
def test_odd_paths_count_less(better: str, worse: str) -> None:
    assert path_prior(better) > path_prior(worse)


@pytest.mark.parametrize("path", ["tools/build.py", "scripts/deploy.sh", "src/latest/contest.py", "lib/attestation.go"])
def test_real_code_in_tools_and_scripts_costs_nothing(path: str) -> None:
    assert path_prior(path) == 1.0


def test_stop_words_of_a_question_are_left_out() -> None:
    question = understood("how does the cache decide when to expire?")
    assert [word for word, _ in question.words] == ["cach", "decid", "expir"]
    assert not question.bare


def test_a_question_of_stop_words_is_still_asked() -> None:
    assert understood("what is this").words


def test_names_in_a_question_are_looked_up_whole() -> None:
    question = understood("where is getUserName or api.client.fetch_all used in Python")
    assert question.names == ("getusername", "fetchall")
    assert terms(question)["exact"] == [("getusername", 3.0), ("fetchall", 3.0)]


def test_a_bare_name_is_known_as_one() -> None:
    question = understood("QuerySet.prefetch_related")
    assert question.bare
    assert question.names == ("prefetchrelated",)


def _candidates(*rows: tuple[int, float, float]) -> Candidates:
    return Candidates(
        uids=np.arange(len(rows)),
        scores=np.array([score for _, score, _ in rows], dtype=np.float32),
        files=np.array([file for file, _, _ in rows]),
        priors=np.array([prior for _, _, prior in rows], dtype=np.float32),
        defines=np.zeros(len(rows), dtype=np.bool_),
    )


def test_a_prior_can_turn_the_order() -> None:
    found = _candidates((1, 10.0, 0.5), (2, 8.0, 1.0))
    assert rank(understood("some words"), found, None, 0.5, stems={}).order.tolist() == [1, 0]
    assert rank(understood("test of some words"), found, None, 0.5, stems={}).order.tolist() == [0, 1]


def test_repeats_of_a_file_fade() -> None:
    found = _candidates((1, 10.0, 1.0), (1, 9.9, 1.0), (1, 9.8, 1.0), (2, 7.0, 1.0))
    assert rank(understood("some words"), found, None, 0.5, stems={}).order.tolist()[:2] == [0, 3]


def test_vectors_move_prose_but_not_names() -> None:
    found = _candidates((1, 10.0, 1.0), (2, 9.0, 1.0))
    similar = np.array([0.0, 0.9], dtype=np.float32)
    assert rank(understood("some words"), found, similar, 0.5, stems={}).order[0] == 1
    assert rank(understood("bare_name"), found, similar, 0.5, stems={}).order[0] == 0


def test_the_files_own_name_counts() -> None:
    found = _candidates((1, 10.0, 1.0), (2, 9.5, 1.0))
    stems = {1: stem_words("src/other.py"), 2: stem_words("src/retry/__init__.py")}
    assert rank(understood("retry with backoff"), found, None, 0.5, stems=stems).order[0] == 1


def test_why_says_what_matched() -> None:
    question = understood("where does RetryPolicy wait for the network")
    assert why(question, "RetryPolicy", "src/network.py", "def wait(): ...", 0.5) == (
        "defines RetryPolicy; path has network; text has wait; means something similar (0.50)"
    )
