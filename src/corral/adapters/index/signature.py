"""A chunk's words in a few bytes, so that a ranking can ask which of a question's words each of its candidates holds.

A signature is a Bloom filter (B. H. Bloom, CACM 13(7), 1970): it never misses a word that is there, and says yes to one
that isn't in some per cent of all cases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, reduce
from operator import or_
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGNATURE_BYTES = 64
"""Of a chunk of some 80 different words, one in twenty others seems to be there; twice as much space gained nothing."""
_HASHES = 3
_FIELDS = ("body", "names", "path", "stem")
_CACHE_LIMIT = 1 << 16


def _positions(word: str) -> list[int]:
    """Which bits a word sets."""
    digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=2 * _HASHES).digest()
    return [
        int.from_bytes(digest[begin : begin + 2], "little") % (8 * SIGNATURE_BYTES)
        for begin in range(0, 2 * _HASHES, 2)
    ]


class _Masks(dict[str, int]):
    """Word to its bits as one number; filled as words are met."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        mask = self[word] = reduce(or_, (1 << position for position in _positions(word)))
        return mask


_masks = _Masks()


def signature_of(fields: Mapping[str, str]) -> bytes:
    """The signature of a chunk's words; ``SIGNATURE_BYTES`` long.

    Args:
        fields: As in ``port.ChunkRow``; whole names are in ``body`` too.
    """
    words: set[str] = set()
    for name in _FIELDS:
        words.update(fields.get(name, "").split())
    return reduce(or_, map(_masks.__getitem__, words), 0).to_bytes(SIGNATURE_BYTES, "little")


@lru_cache(maxsize=4096)
def _places(word: str) -> tuple[tuple[int, int], ...]:
    return tuple((position // 8, position % 8) for position in _positions(word))


def held(signatures: NDArray[np.uint8], words: Sequence[str]) -> NDArray[np.bool_]:
    """Which words each chunk holds, with some wrong yes.

    Args:
        signatures: (n, ``SIGNATURE_BYTES``).
        words: Stemmed, as in the fields.

    Returns:
        (n, words).
    """
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    if not words:
        return np.zeros((len(signatures), 0), dtype=np.bool_)
    places = np.array([_places(word) for word in words], dtype=np.intp)  # words x hashes x (byte, bit)
    bits = signatures[:, places[:, :, 0]] >> places[:, :, 1].astype(np.uint8)
    found: NDArray[np.bool_] = np.all(bits & 1, axis=2)
    return found


def signatures_of(chunks: Iterable[Mapping[str, str]]) -> NDArray[np.uint8]:
    """(n, ``SIGNATURE_BYTES``) of chunks, given by their fields."""
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    raw = b"".join(signature_of(fields) for fields in chunks)
    return np.frombuffer(raw, dtype=np.uint8).reshape(-1, SIGNATURE_BYTES)
