"""Texts, vectors and signatures as the local index keeps them: small, and each to be had alone.

Texts are compressed one by one, so that reading a hit costs one short read, with a dictionary made from the first of
them, so that short files shrink as much as long ones. Vectors are four bits a number with a scale for each vector.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from corral.adapters.index.signature import SIGNATURE_BYTES, signatures_of
from corral.errors import ExtraMissing

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    try:
        from backports import zstd
    except ImportError as missing:
        raise ExtraMissing("codebase indexing needs the 'index' extra: pip install 'corral[index]'") from missing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVEL = 5
_DICTIONARY_BYTES = 64 * 1024
_SAMPLE_BYTES = 16 * 1024
_SAMPLES = 400
_PIECE_BYTES = 2 * 1024
"""Of a sample's beginning that goes into the dictionary; both half and twice as much packed worse."""
_LEAST_SAMPLES = 64
_VECTORS_AT_ONCE = 256
_LEVELS = 7
"""Four bits hold -7 to 7; -8 is left out, so that a vector and its opposite stay opposite."""


class TextCodec:
    """Compresses single texts; any number of threads may share one for reading."""

    def __init__(self, dictionary: bytes = b"") -> None:
        self.dictionary = dictionary
        made = zstd.ZstdDict(dictionary) if dictionary else None
        self._digested = made.as_digested_dict if made else None

    @cached_property
    def _compressor(self) -> zstd.ZstdCompressor:
        return zstd.ZstdCompressor(level=_LEVEL, zstd_dict=self._digested)

    @classmethod
    def trained(cls, texts: list[bytes]) -> TextCodec:
        """With a dictionary of what the texts have in common; with none when they are too few to tell."""
        samples = [text[:_SAMPLE_BYTES] for text in texts if text]
        size = min(_DICTIONARY_BYTES, sum(map(len, samples)) // 16)
        if len(samples) < _LEAST_SAMPLES or size < 1024:
            return cls()
        # The beginnings of files spread over all samples: zstd's own search for what they have in common takes forty
        # times as long for a dictionary that packs no better.
        step = max(1, len(samples) * _PIECE_BYTES // size)
        raw = zstd.ZstdDict(b"".join(sample[:_PIECE_BYTES] for sample in samples[::step])[:size], is_raw=True)
        some = [sample[: 2 * _PIECE_BYTES] for sample in samples[::4]]
        try:
            return cls(zstd.finalize_dict(raw, some, size, _LEVEL).dict_content)
        except zstd.ZstdError:
            return cls()  # nothing in common: a dictionary would not help

    def compress(self, text: bytes) -> bytes:
        """One text; not to be called by two threads at once."""
        return self._compressor.compress(text, zstd.ZstdCompressor.FLUSH_FRAME)

    def decompress(self, packed: bytes) -> bytes:
        """What was compressed."""
        return zstd.decompress(packed, zstd_dict=self._digested)


class PackWriter:
    """Appends texts to a new file.

    The first of a new index are held back until there are enough of them to make its dictionary from.
    """

    def __init__(self, file: IO[bytes], codec: TextCodec | None) -> None:
        self._file = file
        self._codec = codec
        self._waiting: list[bytes] = []
        self._offset = 0
        #: Offset and length in bytes of each text, in the order of ``add``; complete after ``finish``.
        self.offsets = array("Q")
        self.lengths = array("I")

    def add(self, text: bytes) -> None:
        """Append a text."""
        if self._codec is not None:
            self.add_packed(self._codec.compress(text))
            return
        self._waiting.append(text)
        if len(self._waiting) >= _SAMPLES:
            self.finish()

    def add_packed(self, packed: bytes) -> None:
        """Append one that the same codec has compressed."""
        self._file.write(packed)
        self.offsets.append(self._offset)
        self.lengths.append(len(packed))
        self._offset += len(packed)

    def finish(self) -> TextCodec:
        """Write what was held back."""
        if self._codec is None:
            self._codec = TextCodec.trained(self._waiting)
            for text in self._waiting:
                self.add_packed(self._codec.compress(text))
            self._waiting.clear()
        return self._codec


class VectorsWriter:
    """Appends chunks' vectors and signatures to a new file, many at a time: a file's few would cost as much as many."""

    def __init__(self, file: IO[bytes], dimension: int) -> None:
        self._file = file
        self._waiting: list[NDArray[np.int8]] = []
        self._words: list[AbstractSet[str]] = []
        self._dimension = dimension

    def add(self, vectors: NDArray[np.int8], words: Sequence[AbstractSet[str]]) -> None:
        """Append chunks: vectors (n, dimension), 127 standing for 1, and the n chunks' different words."""
        self._waiting.append(np.asarray(vectors, dtype=np.int8).reshape(len(words), self._dimension))
        self._words += words
        if len(self._words) >= _VECTORS_AT_ONCE:
            self.finish()

    def add_packed(self, packed: NDArray[Any]) -> None:
        """Append rows of another file."""
        self.finish()
        self._file.write(packed.tobytes())

    def finish(self) -> None:
        """Write what was held back."""
        if self._words:
            packed = pack_vectors(np.concatenate(self._waiting), signatures_of(self._words))
            self._file.write(packed.tobytes())
            self._waiting.clear()
            self._words.clear()


def vector_dtype(dimension: int) -> np.dtype[Any]:
    """One chunk's row: its vector as a scale and numbers of four bits, and the signature of its words.

    The first half of the numbers is in the low, the second in the high four bits.
    """
    return np.dtype([("scale", "<f2"), ("packed", "u1", (-(-dimension // 2),)), ("words", "u1", (SIGNATURE_BYTES,))])


def pack_vectors(vectors: NDArray[np.int8], signatures: NDArray[np.uint8]) -> NDArray[Any]:
    """Vectors (n, dimension), 127 standing for 1, and signatures (n, ``SIGNATURE_BYTES``) as ``vector_dtype``."""
    count, dimension = vectors.shape
    half = -(-dimension // 2)
    out = np.zeros(count, dtype=vector_dtype(dimension))
    if not count:
        return out
    out["words"] = signatures
    largest = np.abs(vectors.astype(np.float32)).max(axis=1)
    out["scale"] = largest / (127 * _LEVELS)
    steps = np.divide(np.float32(_LEVELS), largest, out=np.zeros_like(largest), where=largest > 0)
    levels = np.zeros((count, 2 * half), dtype=np.uint8)
    levels[:, :dimension] = np.rint(vectors * steps[:, None]) + 8
    out["packed"] = levels[:, :half] | (levels[:, half:] << 4)
    return out


def unpack_vectors(stored: NDArray[Any], dimension: int) -> NDArray[np.float32]:
    """Stored vectors as numbers, (n, dimension)."""
    packed = stored["packed"]
    half = packed.shape[1]
    out = np.empty((len(stored), 2 * half), dtype=np.float32)
    out[:, :half] = packed & 15
    out[:, half:] = packed >> 4
    out -= 8
    out *= stored["scale"].astype(np.float32)[:, None]
    return out[:, :dimension]


def similarities(stored: NDArray[Any], vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each stored vector with a unit vector, (n,): of the levels, and scaled after it."""
    packed = stored["packed"]
    half = packed.shape[1]
    levels = np.empty((len(stored), 2 * half), dtype=np.float32)
    levels[:, :half] = packed & 15
    levels[:, half:] = packed >> 4
    found: NDArray[np.float32] = levels[:, : len(vector)] @ vector
    found -= 8 * vector.sum()
    found *= stored["scale"]
    return found


def map_vectors(path: Path, count: int, dimension: int) -> NDArray[Any]:
    """The vectors of a file; the mapping ends with the array."""
    kind = vector_dtype(dimension)
    if not count:
        return np.zeros(0, dtype=kind)
    # As a plain array: numpy does much more for each use of a memmap.
    return np.memmap(path, dtype=kind, mode="r", shape=(count,)).view(np.ndarray)
