"""Finding the code in a model's answer."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^(?P<mark>`{3,}|~{3,})[^\n`]*\n(?P<code>.*?)(?:^(?P=mark)[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_PATH_COMMENT = re.compile(
    r"^(?:#|//|--|/\*|<!--)\s*(?:file:?\s*)?`?(?P<path>[\w./-]*\w\.\w{1,8})`?\s*(?:\*/|-->)?\s*$", re.IGNORECASE
)
_ELISION = re.compile(
    r"^\s*(?:#|//|/\*|--|<!--|;|%)\s*(?:\.\.\.|…)[^\n]*$"
    r"|^\s*(?:#|//|/\*|--|<!--|;|%)?\s*[(\[<]?(?:the )?"
    r"(?:rest|remainder|remaining|existing|other|previous|unchanged)\b[^\n]*"
    r"\b(?:unchanged|the same|as before|as is|goes here|stays?|remains?|omitted)\b[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)


def code_of(answer: str) -> str:
    """The answer's code: its fenced blocks joined, or the whole answer when it has none."""
    blocks = [match["code"] for match in _FENCE.finditer(answer)]
    return "\n\n".join(block.strip("\n") for block in blocks) + "\n" if blocks else answer


def blocks_of(answer: str) -> list[tuple[str | None, str]]:
    """The answer's fenced blocks, each with the path that a comment in its first line names, if any."""
    found: list[tuple[str | None, str]] = []
    for match in _FENCE.finditer(answer):
        code = match["code"].strip("\n") + "\n"
        first, _, rest = code.partition("\n")
        named = _PATH_COMMENT.match(first)
        found.append((named["path"], rest.lstrip("\n")) if named else (None, code))
    return found


def has_elision(code: str) -> bool:
    """Whether the code leaves something out by a remark such as ``# ... rest unchanged``."""
    return _ELISION.search(code) is not None
