"""The port of the embedder: text to vectors. All calls block and are made from worker threads."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Passage:
    """One chunk to embed."""

    text: str
    #: The different ones of ``words.words_of(text)`` and of the names defined there: the index needs them anyway.
    words: AbstractSet[str]


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors and what they cost."""

    #: float32, passages x dimension, unit length (or zero where nothing is known).
    vectors: NDArray[np.float32]
    cost_usd: float = 0.0


class Embedder(Protocol):
    """Turns passages and questions into vectors of one space."""

    @property
    def name(self) -> str:
        """Model and version: part of an index's identity."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    @property
    def fusion_weight(self) -> float:
        """How much the vectors count beside the words (docs/search.md says what was measured)."""
        ...

    def embed(self, passages: Sequence[Passage]) -> Embedded:
        """Embed chunks.

        Raises:
            SearchFailed: The model or the service failed; ``retryable`` and ``retry_after`` say what to do.
        """
        ...

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a question; (dimension,), unit length or zero.

        Raises:
            SearchFailed: As for ``embed``.
        """
        ...

    def close(self) -> None:
        """Let go of connections and memory."""
        ...
