r"""Halves of characters: JSON can say ``\ud83d`` alone, which is no character, and which nothing else can hold.

Servers that cut a stream by UTF-16 units send an emoji's halves in two of its pieces; models write one alone.
"""

from __future__ import annotations

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def mended(text: str) -> str:
    """The text with neighbouring halves joined, and lone ones replaced by U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class MendedStream:
    """Pieces of a text, each whole: a first half at a piece's end waits for the next one."""

    def __init__(self) -> None:
        self._half = ""

    def feed(self, piece: str) -> str:
        """What can be told by now; may be empty."""
        piece = self._half + piece
        self._half = piece[-1:] if "\ud800" <= piece[-1:] <= "\udbff" else ""
        return mended(piece[:-1] if self._half else piece)

    def end(self) -> str:
        """What is left when nothing more comes."""
        return _REPLACEMENT if self._half else ""
