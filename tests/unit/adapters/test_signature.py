"""Signatures of chunks' words."""

from __future__ import annotations

import numpy as np

from corral.adapters.index.signature import SIGNATURE_BYTES, held, signatures_of

CHUNKS = [{f"word{number}", f"other{number}", "everywhere"} for number in range(50)]


def test_no_word_is_missed() -> None:
    signatures = signatures_of(CHUNKS)
    assert signatures.shape == (50, SIGNATURE_BYTES)
    for number, words in enumerate(CHUNKS):
        assert held(signatures, sorted(words))[number].all()
    assert held(signatures, ["everywhere"]).all()


def test_few_other_words_seem_to_be_there() -> None:
    chunk = {f"word{number}" for number in range(69)}  # as many as a chunk has on average: one in 27 by theory
    [yes] = held(signatures_of([chunk]), [f"stranger{number}" for number in range(4000)])
    assert yes.mean() < 1 / 20


def test_a_chunk_without_words_holds_none() -> None:
    signatures = signatures_of([set(), {"here"}])
    np.testing.assert_array_equal(held(signatures, ["here"]), [[False], [True]])
    assert signatures_of([]).shape == (0, SIGNATURE_BYTES)
