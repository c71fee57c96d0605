"""What the quoted lines teach about the indentation of new ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from corral.jobs.code_generation.matching.lines import indent_of

_Rule = Callable[[str], str | None]


class UnknownIndentationError(ValueError):
    """Nothing that was quoted tells how a new line is indented."""


def indentation_map(search: Sequence[str], real: Sequence[str]) -> dict[str, str] | None:
    """What each quoted indentation really is; None when one of them stands for two."""
    mapping: dict[str, str] = {}
    for quoted, actual in zip(search, real, strict=True):
        if not quoted.strip():
            continue
        if mapping.setdefault(indent_of(quoted), indent_of(actual)) != indent_of(actual):
            return None
    return mapping


def indenter(mapping: dict[str, str]) -> Callable[[str], str]:
    """Give new lines the file's indentation, as learned from the quoted lines by every rule that explains them all."""
    rules = [rule for rule in (_shift(mapping), _scale(mapping)) if rule is not None]

    def adapt(line: str) -> str:
        if not line.strip():
            return ""
        quoted = indent_of(line)
        if quoted in mapping:
            return mapping[quoted] + line[len(quoted) :]
        told = {rule(quoted) for rule in rules}
        if len(told) != 1 or None in told:
            raise UnknownIndentationError
        return f"{told.pop()}{line[len(quoted) :]}"

    return adapt


def _shift(mapping: dict[str, str]) -> _Rule | None:
    """The same text put before every line, or cut off its start."""
    added = {actual[: len(actual) - len(quoted)] for quoted, actual in mapping.items() if actual.endswith(quoted)}
    cut = {quoted[: len(quoted) - len(actual)] for quoted, actual in mapping.items() if quoted.endswith(actual)}
    if len(added) == 1 and all(actual.endswith(quoted) for quoted, actual in mapping.items()):
        before = next(iter(added))
        return lambda quoted: before + quoted
    if len(cut) == 1 and all(quoted.endswith(actual) for quoted, actual in mapping.items()):
        off = next(iter(cut))
        return lambda quoted: quoted[len(off) :] if quoted.startswith(off) else None
    return None


def _scale(mapping: dict[str, str]) -> _Rule | None:
    """Levels of another width: tabs for spaces, or two spaces for four."""
    pairs = [(quoted, actual) for quoted, actual in mapping.items() if quoted or actual]
    if not pairs or any(not quoted or not actual for quoted, actual in pairs):
        return None
    kinds_quoted = {character for quoted, _ in pairs for character in quoted}
    kinds_real = {character for _, actual in pairs for character in actual}
    if len(kinds_quoted) != 1 or len(kinds_real) != 1:
        return None
    numerator, denominator = len(pairs[0][1]), len(pairs[0][0])
    if any(len(actual) * denominator != len(quoted) * numerator for quoted, actual in pairs):
        return None
    kind_quoted, kind_real = kinds_quoted.pop(), kinds_real.pop()

    def scale(quoted: str) -> str | None:
        length, odd = divmod(len(quoted) * numerator, denominator)
        return None if odd or set(quoted) - {kind_quoted} else kind_real * length

    return scale
