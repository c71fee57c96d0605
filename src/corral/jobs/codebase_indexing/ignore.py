"""What ``.corralignore`` names, in .gitignore's syntax, matched in a time that no pattern can blow up.

It is what git does, but that a slash within brackets is one too. A pattern is cut at its slashes. Within a name, what
stands between two stars is looked for from the left and never given back, so that a name is passed over once however
many stars there are; ``**`` does the same with whole names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from corral.errors import SearchFailed

_MAX_PATTERNS: Final = 1000
"""Each file may be held against all of them."""
_POSIX: Final = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": " \\t", "cntrl": "\\x00-\\x1f\\x7f", "digit": "0-9",
    "graph": "!-~", "lower": "a-z", "print": " -~", "punct": "!-/:-@\\[-`{-~", "space": " \\t\\n\\r\\f\\v",
    "upper": "A-Z", "xdigit": "0-9a-fA-F",
}  # fmt: skip

_ESCAPED_SLASH = re.compile(r"(?<!\\)((?:\\\\)*)\\/")

_Fits = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class _Rule:
    #: For each name of the path whether it fits; None stands for any number of names.
    names: tuple[_Fits | None, ...]
    #: Whether it takes back what an earlier rule ignores.
    lifts: bool
    folders_only: bool
    #: Whether the whole path has to fit, not only its last name.
    anchored: bool

    def fits(self, names: Sequence[str]) -> bool:
        if not self.anchored:
            (fits,) = self.names
            return fits is None or bool(fits(names[-1]))
        return _fit(self.names, names)


def _fit(wanted: Sequence[_Fits | None], names: Sequence[str]) -> bool:
    at = after_any = 0
    any_at = -1
    here = 0
    while here < len(names):
        fits = wanted[at] if at < len(wanted) else _nothing
        if fits is None:
            any_at, after_any = at, here
            at += 1
        elif fits(names[here]):
            at, here = at + 1, here + 1
        elif any_at >= 0:
            after_any += 1
            at, here = any_at + 1, after_any
        else:
            return False
    return all(fits is None for fits in wanted[at:])


class IgnoreRules:
    """Which paths are left out.

    Args:
        text: Of the file.
        more: Further patterns, which come last and so win.

    Raises:
        SearchFailed: There are too many patterns.
    """

    def __init__(self, text: str, more: Sequence[str] = ()) -> None:
        found = (_rule(line.removesuffix("\r")) for line in [*text.removeprefix("\ufeff").split("\n"), *more])
        rules = [rule for rule in found if rule is not None]
        if len(rules) > _MAX_PATTERNS:
            raise SearchFailed(
                f"expected at most {_MAX_PATTERNS:,} patterns of what to ignore, got {len(rules):,}: name folders",
                service="index",
                operation="ignore",
                retryable=False,
                reason="too_many_patterns",
            )
        self._last_first = rules[::-1]
        self._folders: dict[str, bool] = {"": False}

    def __contains__(self, path: str) -> bool:
        return bool(self._last_first) and (self._folder(path.rpartition("/")[0]) or self._named(path, folder=False))

    def _folder(self, path: str) -> bool:
        """Whether a folder is left out, by itself or with one above."""
        unknown = []
        while path not in self._folders:
            unknown.append(path)
            path = path.rpartition("/")[0]
        ignored = self._folders[path]
        for below in reversed(unknown):
            ignored = self._folders[below] = ignored or self._named(below, folder=True)
        return ignored

    def _named(self, path: str, *, folder: bool) -> bool:
        names = path.split("/")
        for rule in self._last_first:
            if (folder or not rule.folders_only) and rule.fits(names):
                return not rule.lifts
        return False


def _rule(line: str) -> _Rule | None:
    """What a line says; None for one that says nothing."""
    line = _without_trailing_spaces(line)
    if line.startswith("#"):
        return None
    lifts = line.startswith("!")
    pattern = line[lifts:]
    folders_only = pattern.endswith("/")
    pattern = pattern[: len(pattern) - folders_only]
    anchored = "/" in pattern
    pattern = pattern.removeprefix("/")
    if not pattern:
        return None
    pattern = _ESCAPED_SLASH.sub(r"\1/", pattern)
    names = [None if re.fullmatch(r"\*\*+", name) else _name(name) for name in pattern.split("/")]
    if anchored and names[-1] is None:
        names.append(_anything)  # ``a/**`` is what is inside of a, not a
    return _Rule(tuple(names), lifts, folders_only, anchored)


def _without_trailing_spaces(line: str) -> str:
    end = len(line)
    while end and line[end - 1] == " ":
        escapes = len(line[: end - 1]) - len(line[: end - 1].rstrip("\\"))
        if escapes % 2:
            break
        end -= 1
    return line[:end]


def _nothing(_: str) -> bool:
    return False


def _anything(_: str) -> bool:
    return True


def _name(pattern: str) -> _Fits:
    """Whether one name fits one part of a pattern."""
    if not any(mark in pattern for mark in "*?[\\"):
        return pattern.__eq__
    pieces = [""]  # what is between stars, as regular expressions
    at = 0
    while at < len(pattern):
        mark = pattern[at]
        at += 1
        if mark == "*":
            pieces.append("")
        elif mark == "?":
            pieces[-1] += "."
        elif mark == "[":
            found = _class(pattern, at)
            if found is None:
                return _nothing
            expression, at = found
            pieces[-1] += expression
        elif mark == "\\":
            if at == len(pattern):
                return _nothing
            pieces[-1] += re.escape(pattern[at])
            at += 1
        else:
            pieces[-1] += re.escape(mark)
    first, *middle, last = pieces if len(pieces) > 1 else [pieces[0], ""]
    inner = "".join(f"(?>.*?{piece})" for piece in middle if piece)
    tail = f".*{last}" if len(pieces) > 1 else ""
    return re.compile(first + inner + tail, re.DOTALL).fullmatch


def _class(pattern: str, at: int) -> tuple[str, int] | None:
    """The regular expression for a class whose bracket is open, and where it ends; None for one that fits nothing."""
    negated = pattern[at : at + 1] in {"!", "^"}
    at += negated
    items = ""
    first = True
    while first or pattern[at : at + 1] != "]":
        first = False
        if pattern.startswith("[:", at) and (end := pattern.find(":]", at)) > 0:
            posix = _POSIX.get(pattern[at + 2 : end])
            if posix is None:
                return None
            items += posix
            at = end + 2
            continue
        low, at = _character(pattern, at)
        high = low
        if pattern[at : at + 1] == "-" and pattern[at + 1 : at + 2] not in {"]", ""}:
            high, at = _character(pattern, at + 1)
        if not low or not high:
            return None  # it never ends
        # Of a range the wrong way round, its first letter alone.
        items += f"{re.escape(low)}-{re.escape(max(low, high))}"
    if not items:
        return (".", at + 1) if negated else None
    return f"[{'^' if negated else ''}{items}]", at + 1


def _character(pattern: str, at: int) -> tuple[str, int]:
    at += pattern[at : at + 1] == "\\"
    return pattern[at : at + 1], at + 1
