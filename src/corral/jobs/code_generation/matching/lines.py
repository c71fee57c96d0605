"""A line in the forms that are compared: with plain characters, with single spaces, with none."""

from __future__ import annotations

import unicodedata

_LOOK_ALIKES = str.maketrans(
    {
        "\u2018": "'", "\u2019": "'", "\u201a": "'", "\u201b": "'", "\u2032": "'", "\u00b4": "'",
        "\u201c": '"', "\u201d": '"', "\u201e": '"', "\u201f": '"', "\u2033": '"', "\u00ab": '"', "\u00bb": '"',
        "\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2015": "-", "\u2212": "-",
        "\u00a0": " ", "\u2002": " ", "\u2003": " ", "\u2009": " ", "\u202f": " ", "\u3000": " ",
        "\u200b": None, "\u200c": None, "\u200d": None, "\ufeff": None,
        "\u2026": "...",
    }
)  # fmt: skip


def plain_characters(line: str) -> str:
    """The line with typographic characters replaced by what a keyboard has."""
    return unicodedata.normalize("NFC", line.translate(_LOOK_ALIKES)).rstrip()


def plain(line: str) -> str:
    """The line with plain characters, and one space wherever there is white space."""
    return " ".join(plain_characters(line).split())


def dense(line: str) -> str:
    """The line without any white space: what is left when only spacing differs."""
    return "".join(plain_characters(line).split())


def indent_of(line: str) -> str:
    """The white space before the line's first character."""
    return line[: len(line) - len(line.lstrip())]
