"""all-MiniLM-L6-v2 as int8 ONNX: a transformer's vectors at ten to twenty chunks a second. Opt-in.

The model's file and its tokenizer are the user's to install; ``docs/search.md`` names packages that bring them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from corral.adapters.embedder.port import Embedded, Passage
from corral.errors import ExtraMissing, ModelUnavailable

try:
    import numpy as np
    import onnxruntime
    from tokenizers import Tokenizer
except ImportError as missing:
    raise ExtraMissing("the MiniLM embedder needs the 'minilm' extra: pip install 'corral[minilm]'") from missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MAX_TOKENS = 256


class MiniLmEmbedder:
    """A small transformer on this machine's processor.

    Args:
        model: The ONNX file.
        tokenizer: The ``tokenizer.json`` that belongs to it.
        threads: How many to compute with.

    Raises:
        ModelUnavailable: A file is missing.
    """

    name = "all-MiniLM-L6-v2-int8"
    dimension = 384
    fusion_weight = 0.75

    def __init__(self, model: Path, tokenizer: Path, *, threads: int = 1) -> None:
        for path in (model, tokenizer):
            if not path.is_file():
                raise ModelUnavailable(
                    f"expected MiniLM's file at {path}, found none; docs/search.md says how to get it"
                )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.no_padding()

    def embed(self, passages: Sequence[Passage]) -> Embedded:
        """Embed chunks."""
        return Embedded(self._vectors([passage.text for passage in passages]))

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a question."""
        vector: NDArray[np.float32] = self._vectors([text])[0]
        return vector

    def close(self) -> None:
        """Nothing to let go of before the object itself goes."""

    def _vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        # One by one: int8 activations are scaled over all that is computed at once, so company would change a vector.
        # Batches of 16 took a fifth more processor time besides.
        out = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for row, encoding in enumerate(self._tokenizer.encode_batch(list(texts))):
            ids = np.array([encoding.ids], dtype=np.int64)
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            hidden = self._session.run(None, {name: value for name, value in feed.items() if name in self._inputs})[0]
            out[row] = hidden[0].mean(axis=0) if hidden.ndim == 3 else hidden[0]
        np.divide(out, np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12), out=out)
        return out
