from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from corral.adapters.index.port import Candidates, StoredChunk
from corral.jobs.codebase_indexing.ranking import Stems, path_prior, rank, stem_words, terms, understood, why


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
    """Of file, score and prior."""
    return Candidates(
        uids=np.arange(len(rows)),
        scores=np.array([score for _, score, _ in rows], dtype=np.float32),
        files=np.array([file for file, _, _ in rows]),
        priors=np.array([prior for _, _, prior in rows], dtype=np.float32),
        defines=np.zeros(len(rows), dtype=np.bool_),
        held=np.zeros((len(rows), 0), dtype=np.bool_),
    )


def called(paths: Mapping[int, str]) -> Stems:
    """Of files with these paths; others have names that no question here asks for."""
    return Stems(lambda files: {file: paths.get(file, "zzz.py") for file in files})


def order_of(
    query: str,
    found: Candidates,
    *,
    held: list[list[bool]] | None = None,
    similarities: list[float] | None = None,
    paths: dict[int, str] | None = None,
) -> list[int]:
    question = understood(query)
    everything = np.ones((len(found.uids), len(question.words)), dtype=np.bool_)
    told = replace(
        found,
        held=everything if held is None else np.array(held),
        similarities=None if similarities is None else np.array(similarities, dtype=np.float32),
    )
    order: list[int] = rank(question, told, called(paths or {}), 0.5).order.tolist()
    return order


def test_a_prior_can_turn_the_order() -> None:
    found = _candidates((1, 10.0, 0.5), (2, 8.0, 1.0))
    assert order_of("some words", found) == [1, 0]
    assert order_of("test of some words", found) == [0, 1]


def test_repeats_of_a_file_fade() -> None:
    found = _candidates((1, 10.0, 1.0), (1, 9.9, 1.0), (1, 9.8, 1.0), (2, 7.0, 1.0))
    assert order_of("some words", found)[:2] == [0, 3]


def test_a_file_with_company_comes_before_a_lone_chunk_that_is_slightly_better() -> None:
    found = _candidates((2, 10.0, 1.0), (1, 9.5, 1.0), (1, 9.0, 1.0))
    assert order_of("some words", found)[0] == 1


def test_the_candidates_are_left_as_they_were() -> None:
    found = _candidates((1, 10.0, 0.5), (2, 8.0, 1.0))
    order_of("some words", found, similarities=[0.5, 0.9])
    assert found.scores.tolist() == [10.0, 8.0]


def test_a_chunk_that_speaks_of_the_whole_question_beats_one_that_repeats_a_part() -> None:
    found = _candidates((1, 10.0, 1.0), (2, 8.0, 1.0), (3, 1.0, 1.0))
    query = "expire cached entries"
    assert order_of(query, found) == [0, 1, 2]
    assert order_of(query, found, held=[[True, False, False], [True, True, True], [True, False, False]])[0] == 1


def test_words_that_every_candidate_has_tell_least() -> None:
    found = _candidates((1, 10.0, 1.0), (2, 10.0, 1.0), (3, 1.0, 1.0), (4, 1.0, 1.0))
    common, rare = [True, True, False], [True, False, True]
    held = [common, rare, common, common]
    assert order_of("expire cached entries", found, held=held)[0] == 1


def test_vectors_move_prose_but_not_names() -> None:
    found = _candidates((1, 10.0, 1.0), (2, 9.0, 1.0))
    assert order_of("some words", found, similarities=[0.0, 0.9])[0] == 1
    assert order_of("bare_name", found, similarities=[0.0, 0.9])[0] == 0


def test_the_files_own_name_counts() -> None:
    found = _candidates((1, 10.0, 1.0), (2, 9.8, 1.0))
    paths = {1: "src/other.py", 2: "src/retry/__init__.py"}
    assert order_of("retry with backoff", found, paths=paths)[0] == 1


def test_which_part_of_its_stem_is_asked_for_is_told_of_each_file_whenever_it_is_met() -> None:
    asked: list[int] = []
    paths = {1: "a/retry_policy.py", 2: "b/retry.py", 3: "c/policy/index.js", 4: "d/.py"}

    def read(files: Sequence[int]) -> dict[int, str]:
        asked.extend(files)
        return {file: paths[file] for file in files}

    stems = Stems(read)
    (retry,) = stem_words("retry.py")
    assert stems.named([retry], [1]) == {1: 0.5}
    assert stems.named([retry, "policy"], [1, 2, 3, 4]) == {1: 1.0, 2: 1.0, 3: 1.0}
    assert stems.named(["policy"], [2, 3]) == {3: 1.0}
    assert stems.named([], [1, 2]) == {}
    assert sorted(asked) == [1, 2, 3, 4], "each is read once"


def plainly(query: str, found: Candidates, stems: list[frozenset[str]]) -> list[float]:
    """The scores as docs/decisions/0051 tells them, one candidate and one word after the other."""
    words = understood(query).words
    count = len(found.uids)
    held, near = found.held.tolist(), [] if found.similarities is None else found.similarities.tolist()
    rarity = [
        weight * math.log(1 + 1 / (sum(row[place] for row in held) / count + 1e-3))
        for place, (_, weight) in enumerate(words)
    ]
    scores = []
    for index in range(count):
        score = float(found.scores[index]) / float(max(found.scores)) + 0.5 * max(near[index], 0.0) / max(near)
        score *= float(found.priors[index]) ** 1.5 * (1.15 if found.defines[index] else 1.0)
        covered = sum(part for part, has in zip(rarity, held[index], strict=True) if has) / sum(rarity)
        score *= 1 - 0.6 * (1 - covered)
        named = [word for word, weight in words if weight >= 1 and word in stems[index]]
        scores.append(score * (1 + 0.1 * (len(named) / len(stems[index]) if stems[index] else 0)))
    final = list(scores)
    for file in set(found.files.tolist()):
        best = sorted((index for index in range(count) if found.files[index] == file), key=lambda at: -scores[at])
        for place, index in enumerate(best):
            final[index] = scores[index] * 0.55**place
        final[best[0]] += sum(share * scores[at] for share, at in zip((0.22, 0.1), best[1:], strict=False))
    return final


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_a_plain_computation(seed: int) -> None:
    random = np.random.default_rng(seed)
    query, count = "retry failed network requests with value backoff", int(random.integers(1, 60))
    words = len(understood(query).words)
    found = Candidates(
        uids=np.arange(count),
        scores=np.sort(random.uniform(0.1, 20, count)).astype(np.float32)[::-1],
        files=random.integers(0, count // 3 + 1, count),
        priors=random.choice([0.1, 0.55, 1.0], count).astype(np.float32),
        defines=random.random(count) < 0.5,
        held=random.random((count, words)) < 0.4,
        similarities=random.uniform(0.01, 1, count).astype(np.float32),
    )
    vocabulary = ["retri", "retry", "backoff", "client", "network"]
    paths = {file: "_".join(random.choice(vocabulary, random.integers(0, 3)).tolist()) for file in range(count)}
    ranked = rank(understood(query), found, called(paths), 0.5)
    expected = plainly(query, found, [stem_words(paths[file]) for file in found.files.tolist()])
    assert ranked.scores.tolist() == pytest.approx(expected, rel=1e-4)
    assert ranked.order.tolist() == sorted(range(count), key=lambda index: -ranked.scores[index])


def chunk(symbol: str, path: str, text: str) -> StoredChunk:
    return StoredChunk(1, path, "python", 1, 1, symbol, "class", True, text)


def test_why_says_what_matched() -> None:
    question = understood("where does RetryPolicy wait for the network and its queries")
    hit = chunk("RetryPolicy", "src/network.py", "def wait(): return self.queries")
    assert why(question, hit, [True] * len(question.words), 0.5) == (
        "defines RetryPolicy; path has network; text has wait, query; means something similar (0.50)"
    )


def test_why_names_no_word_that_is_not_there() -> None:
    question = understood("wait for the network")
    hit = chunk("Policy", "src/a.py", "def wait(): ...")
    assert why(question, hit, [True, True], 0.0) == "text has wait"
    assert why(question, hit, [False, False], 0.21) == "nearest in meaning (0.21)"


def test_why_finds_words_in_capitals_and_across_underscores() -> None:
    question = understood("retries timeout")
    hit = chunk("", "src/a.py", "MAX_RETRIES = 3; time_out = 1")
    assert why(question, hit, [True, True], 0.0) == "text has retry, timeout"
