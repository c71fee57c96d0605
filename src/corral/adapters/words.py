"""How code and questions become words: identifiers split at their joints, lowered and stemmed.

The lexical index and the static embedder both live on these words, so a change here makes every index and the trained
vectors stale: raise ``WORDS_VERSION`` with it and train anew (``tools/train_static_vectors.py``).
"""

from __future__ import annotations

import re
from functools import lru_cache

WORDS_VERSION = 1
"""Part of every index's identity; an index of another version is rebuilt."""

# Everything but ASCII punctuation and space is kept: five times as fast over bytes as a regular expression over text.
_SEPARATORS_TO_SPACE = bytes(
    byte if chr(byte).isalnum() or byte in (0x5F, *range(128, 256)) else 32 for byte in range(256)
)
_JOINTS = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_A-Za-z]+")
_MAX_IDENTIFIER = 80
_MIN_NUMBER = 3
_CACHE_LIMIT = 1 << 16  # some 12 MB; three times as many would spare spelling less than one identifier in a hundred

_VOWELS = frozenset("aeiouy")


@lru_cache(maxsize=1 << 15)
def stem(word: str) -> str:
    """Reduce a lower-case word to a stem that its inflections share.

    Far lighter than Porter's: it only has to bring ``caching``, ``cached``, ``caches`` and ``cache`` together, and
    nothing that differs in a program's vocabulary.
    """
    if len(word) < 4 or not word.isascii():
        return word
    word = _without_plural(word)
    word = _without_inflection(word)
    return _without_derivation(word)


def _without_plural(word: str) -> str:
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if word.endswith("s") and not word.endswith(("ss", "us", "is", "os", "as")):
        return word[:-1]
    return word


def _without_inflection(word: str) -> str:
    for ending in ("ing", "ed"):
        if word.endswith(ending):
            root = word[: -len(ending)]
            if len(root) >= 3 and not _VOWELS.isdisjoint(root):
                if root[-1] == root[-2] and root[-1] not in "lsz":
                    return root[:-1]
                return root
    return word


def _without_derivation(word: str) -> str:
    if word.endswith(("tion", "sion")) and len(word) > 7:
        return word[:-3]
    if word.endswith(("ator", "izer", "iser")) and len(word) > 6:
        return word[:-2]
    if word.endswith(("er", "or")) and len(word) > 5 and word[-3] not in "aeiouy":
        return word[:-2]
    if word.endswith("ly") and len(word) > 5:
        return word[:-2]
    if word.endswith("e") and len(word) > 4:
        return word[:-1]
    return word


def split_identifier(identifier: str) -> list[str]:
    """Split at underscores, case changes and digits; lowered, not stemmed."""
    if identifier.isascii() and identifier.isalpha() and identifier.islower():
        return [identifier]
    joined = "\n".join(_JOINTS.findall(identifier))  # to lower once instead of for each part
    return joined.lower().split("\n") if joined else []


class _Spelling(dict[str, str]):
    """Identifier to its words, joined by spaces; filled as identifiers are met."""

    def __missing__(self, identifier: str) -> str:
        if len(identifier) > _MAX_IDENTIFIER:
            return ""  # base64 and hashes: nobody searches for them; nor are they kept, as they may be of any length
        if len(self) >= _CACHE_LIMIT:
            self.clear()
        words = self[identifier] = _spell(identifier)
        return words


def _spell(identifier: str) -> str:
    if identifier.isdecimal() and len(identifier) < _MIN_NUMBER:
        return ""  # 0 and 42: nobody searches for them
    parts = split_identifier(identifier)
    if len(parts) == 1:
        return stem(parts[0])
    words = [stem(part) for part in parts if len(part) > 1 or not part.isascii()]
    words.append("".join(parts))
    return " ".join(words)


_spelling = _Spelling()


def words_of(text: str) -> str:
    """Every word of a text in its order, separated by spaces.

    A compound identifier gives its parts and then itself in one piece (``getUserName``: ``get user name
    getusername``), so that both a question in prose and the bare name find it.
    """
    identifiers = text.encode("utf-8", "replace").translate(_SEPARATORS_TO_SPACE).decode().split()
    return " ".join(map(_spelling.__getitem__, identifiers))


def is_identifier(query: str) -> bool:
    """Whether a query is one name as written in code rather than prose."""
    query = query.strip().removesuffix("()")
    if not query or any(character.isspace() for character in query):
        return False
    return bool(re.fullmatch(r"[\w.:$#>-]+", query))
