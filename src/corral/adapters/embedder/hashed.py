"""An embedder for tests: words hashed into a few dimensions. Texts that share words are near; nothing is learnt."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from corral.adapters.embedder.port import Embedded, Passage
from corral.adapters.words import words_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class HashedEmbedder:
    """Deterministic, instant, and recording."""

    def __init__(self, dimension: int = 64, *, name: str = "hashed", fusion_weight: float = 0.5) -> None:
        self.name = name
        self.dimension = dimension
        self.fusion_weight = fusion_weight
        #: Every passage that was embedded, in order.
        self.embedded: list[Passage] = []

    def embed(self, passages: Sequence[Passage]) -> Embedded:
        """Embed chunks."""
        import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

        self.embedded.extend(passages)
        rows = [self._vector(passage.words) for passage in passages]
        return Embedded(np.array(rows, dtype=np.float32).reshape(len(rows), self.dimension))

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a question."""
        return self._vector(set(words_of(text).split()))

    def close(self) -> None:
        """Nothing to let go of."""

    def _vector(self, words: AbstractSet[str]) -> NDArray[np.float32]:
        import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

        vector = np.zeros(self.dimension, dtype=np.float32)
        for word in words:
            vector[zlib.crc32(word.encode()) % self.dimension] += 1
        norm = float(np.linalg.norm(vector))
        return vector / norm if norm else vector
