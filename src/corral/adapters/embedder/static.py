"""The default embedder: one vector for each stemmed word of code, trained for this, inside the package.

A passage is the weighted sum of its words' vectors. ``tools/train_static_vectors.py`` makes ``static_vectors.npz``;
``docs/search.md`` says from what and how good it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import cache
from importlib import resources
from itertools import repeat
from typing import TYPE_CHECKING

from corral.adapters.embedder.port import Embedded, Passage
from corral.adapters.words import WORDS_VERSION, words_of
from corral.errors import ConfigurationError, ExtraMissing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_WORDS = 48
"""Of a passage, its most telling words; the rest are common ones, which say little and cost time."""
_BATCH = 512


@cache
def _load() -> tuple[dict[str, int], NDArray[np.float32], str]:
    """Word to row (the rows are sorted: the most telling first), vectors already weighted, and a version."""
    try:
        import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra
    except ImportError as error:
        raise ExtraMissing("codebase indexing needs the 'index' extra: pip install 'corral[index]'") from error
    source = resources.files("corral.adapters.embedder").joinpath("static_vectors.npz")
    with resources.as_file(source) as path, np.load(path, allow_pickle=False) as data:
        words = bytes(data["words"]).decode().split("\n")
        vectors = data["vectors"].astype(np.float32) * data["scales"].astype(np.float32)[:, None]
        version = str(data["version"])
        if int(data["words_version"]) != WORDS_VERSION:
            raise ConfigurationError(
                f"the static vectors were trained for word splitting {int(data['words_version'])}, but this is "
                f"{WORDS_VERSION}: run tools/train_static_vectors.py"
            )
    return {word: row for row, word in enumerate(words)}, vectors, version


class StaticEmbedder:
    """Sums of word vectors; needs no model runtime, no network and no warming up."""

    fusion_weight = 0.5

    def __init__(self) -> None:
        self._rows, self._vectors, version = _load()
        self.dimension = int(self._vectors.shape[1])
        self.name = f"static-{version}"

    def embed(self, passages: Sequence[Passage]) -> Embedded:
        """Embed chunks; some ten thousand a second."""
        return Embedded(self._sums([passage.words for passage in passages]))

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a question; a zero vector when none of its words is known."""
        import numpy as np  # noqa: PLC0415 - loaded by _load

        known = {row for word in words_of(text).split() if (row := self._rows.get(word)) is not None}
        if not known:
            return np.zeros(self.dimension, dtype=np.float32)
        # One passage, without what many are worth: a search waits for it.
        vector: NDArray[np.float32] = np.add.reduce(self._vectors.take(sorted(known)[:MAX_WORDS], axis=0))
        return vector / np.float32(math.sqrt(vector @ vector) or 1)

    def close(self) -> None:
        """Nothing to let go of: the vectors are shared by the whole process."""

    def _sums(self, passages: Sequence[AbstractSet[str]]) -> NDArray[np.float32]:
        """Unit sums of words' vectors, (passages, dimension)."""
        import numpy as np  # noqa: PLC0415 - loaded by _load

        out = np.zeros((len(passages), self.dimension), dtype=np.float32)
        for begin in range(0, len(passages), _BATCH):
            part = passages[begin : begin + _BATCH]
            rows, ends = self._telling_rows(part)
            first = 0
            for number, end in enumerate(ends.tolist(), start=begin):
                if end > first:  # one by one: twice to four times as fast as reduceat
                    telling = self._vectors[rows[first : min(end, first + MAX_WORDS)]]
                    np.add.reduce(telling, axis=0, out=out[number])
                first = end
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        np.divide(out, norms, out=out, where=norms > 0)
        return out

    def _telling_rows(self, passages: Sequence[AbstractSet[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of the known words, passage by passage and the most telling first, and where each passage's end."""
        import numpy as np  # noqa: PLC0415 - loaded by _load

        found: list[int] = []
        for words in passages:
            found.extend(map(self._rows.get, words, repeat(-1)))
        rows = np.array(found, dtype=np.int64)
        owner = np.repeat(np.arange(len(passages)), [len(words) for words in passages])
        known = rows >= 0
        keys = owner[known] * len(self._vectors) + rows[known]
        keys.sort()
        owner, rows = np.divmod(keys, len(self._vectors))
        return rows, np.searchsorted(owner, np.arange(len(passages)), side="right")
