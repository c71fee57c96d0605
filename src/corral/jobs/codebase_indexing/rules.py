"""What is left out of an index and why, and how the rest becomes text."""

from __future__ import annotations

import re
from enum import StrEnum

from corral.adapters.secrets import without_tokens
from corral.jobs.codebase_indexing.languages import DATA, PROSE, language_of

RULES_VERSION = 2
"""Part of every index's identity."""

MAX_FILE_BYTES = 1_000_000
"""Larger files are data or generated in practice."""
IGNORE_FILE = ".corralignore"
"""In the repository's root, in .gitignore's syntax: tracked files that search should not see."""


class SkipReason(StrEnum):
    """Why a file is not searched."""

    IGNORED = "ignored"
    """Named by ``.corralignore``."""
    BINARY = "binary"
    GENERATED = "generated"
    """Written by a program, minified, or a lock file."""
    TOO_LARGE = "too_large"
    SECRET = "secret"  # noqa: S105 - the name of a reason
    """A file made to hold keys or passwords."""
    SYMLINK = "symlink"
    SUBMODULE = "submodule"
    UNSUPPORTED = "unsupported"
    """No text that a search for code would want."""
    CRASHED = "crashed"
    """Parsing it brought down the process that did."""
    EMPTY = "empty"
    UNREADABLE = "unreadable"
    """Gone or replaced while it was read."""


_SECRET_NAME = re.compile(
    r"^(?:\.env(?:\.(?!example$|sample$|template$|dist$).*)?|.*\.(?:pem|key|p12|pfx|jks|keystore|kdbx|ppk|asc|gpg)"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)|\.netrc|\.pgpass|\.npmrc|\.pypirc|\.htpasswd|credentials(?:\.json)?"
    r"|service[-_]account.*\.json|secrets?\.(?:ya?ml|json|toml))$"
)
_GENERATED_NAME = re.compile(
    r"(?:\.min\.(?:js|css)|[.-]bundle\.js|\.map|\.lock|-lock\.json|-lock\.yaml|\.sum|npm-shrinkwrap\.json"
    r"|_pb2(?:_grpc)?\.pyi?|\.pb\.(?:go|cc|h)|\.g\.dart|\.designer\.cs|\.snap)$",
    re.IGNORECASE,
)
_NEVER_FOLDERS = frozenset({"node_modules", "__pycache__", ".git", "bower_components", ".venv", "site-packages"})
_GENERATED_MARK = re.compile(
    r"@generated\b|\b(?:code|file) (?:is |was )?(?:auto[- ]?)?generated\b[^\n]{0,80}\bdo not (?:edit|modify)"
    r"|\bdo not edit\b[^\n]{0,80}\bgenerated\b|\bauto[- ]?generated\b[^\n]{0,120}\bdo not (?:edit|modify)",
    re.IGNORECASE,
)
_MARK_WITHIN = 1500
_MAX_LINE = 20_000
_MAX_MEAN_LINE = 250
_BINARY_WITHIN = 8192


def skip_by_path(path: str) -> SkipReason | None:
    """Why a file is left out, by its name alone."""
    *folders, name = path.split("/")
    if _SECRET_NAME.match(name):
        return SkipReason.SECRET
    if not _NEVER_FOLDERS.isdisjoint(folders) or _GENERATED_NAME.search(name):
        return SkipReason.GENERATED
    if language_of(path) is None:
        return SkipReason.UNSUPPORTED
    return None


def text_of(content: bytes, path: str) -> str | SkipReason:
    r"""A file's text with line ends as ``\n`` and secrets masked, or why it is left out."""
    if not content.strip():
        return SkipReason.EMPTY
    text = decoded(content)
    if text is None:
        return SkipReason.BINARY
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    language = language_of(path)
    if language not in PROSE and _looks_generated(text, data=language in DATA):
        return SkipReason.GENERATED
    return without_tokens(text)


def decoded(content: bytes) -> str | None:
    """UTF-8, UTF-16 or Latin-1 text; None for a binary."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    if content.startswith(b"\xef\xbb\xbf"):
        content = content[3:]
    head = content[:_BINARY_WITHIN]
    if b"\0" in head:
        # UTF-16 without its mark: every other byte of Western text is zero.
        for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
            if zeros.count(0) > 0.9 * len(zeros):
                return content.decode(encoding, "replace")
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        control = sum(byte < 32 and byte not in b"\t\n\r\f\x1b" for byte in head)
        return None if control > len(head) // 100 else content.decode("latin-1")


def _looks_generated(text: str, *, data: bool) -> bool:
    head = text[:_MARK_WITHIN]
    if "generated" in head.lower() and _GENERATED_MARK.search(head):
        return True
    if len(text) < _MAX_LINE:
        return False
    lines = text.count("\n") + 1
    if len(text) / lines > _MAX_MEAN_LINE:
        return True
    return not data and max(map(len, text.split("\n"))) > _MAX_LINE
