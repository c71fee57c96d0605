"""A chunk's words in a few bytes, so that a ranking can ask which of a question's words each of its candidates holds.

A signature is a Bloom filter (B. H. Bloom, CACM 13(7), 1970): it never misses a word that is there, and says yes to one
that isn't in some per cent of all cases.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIGNATURE_BYTES = 64
"""Of a chunk of some 80 different words, one in twenty others seems to be there; twice as much space gained nothing."""
_BITS = 8 * SIGNATURE_BYTES
_SHIFTS = (0, 16, 32)
"""Where in a word's hash its three are."""
_CACHE_LIMIT = 1 << 16


class _Hashes(dict[str, int]):
    """Word to hash; filled as words are met."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=2 * len(_SHIFTS)).digest()
        number = self[word] = int.from_bytes(digest, "little")
        return number


_hashes = _Hashes()


def signatures_of(chunks: Sequence[AbstractSet[str]]) -> NDArray[np.uint8]:
    """The signatures of chunks given by their different words, (n, ``SIGNATURE_BYTES``)."""
    import numpy as np  # noqa: PLC0415 - optional: the ``index`` extra

    hashes = np.fromiter(chain.from_iterable(map(_hashes.__getitem__, words) for words in chunks), dtype=np.int64)
    firsts = np.repeat(np.arange(len(chunks)) * _BITS, [len(words) for words in chunks])
    bits = np.zeros((len(chunks), _BITS), dtype=np.bool_)
    for shift in _SHIFTS:
        bits.ravel()[firsts + (hashes >> shift) % _BITS] = True
    return np.packbits(bits, axis=1, bitorder="little")


@lru_cache(maxsize=4096)
def _places(word: str) -> bytes:
    """The numbers of the bytes that a word's bits are in, then each bit's value there."""
    positions = [(_hashes[word] >> shift) % _BITS for shift in _SHIFTS]
    return bytes([position // 8 for position in positions] + [1 << position % 8 for position in positions])


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
    places = np.frombuffer(b"".join(map(_places, words)), dtype=np.uint8).reshape(len(words), 2, len(_SHIFTS))
    bits = signatures.T[places[:, 0]]  # words x hashes x n: whole rows are taken, each bit of all chunks at once
    bits &= places[:, 1, :, None]
    found: NDArray[np.bool_] = np.logical_and.reduce(bits, axis=1)
    return found.T
