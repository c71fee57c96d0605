"""A file's text and all about it that an edit must leave alone: encoding, line endings, the missing last newline."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

_LINE = re.compile(r"([^\r\n]*)(\r\n|\n|\r|$)")
_CODING = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", re.MULTILINE)
_SNIFFED_BYTES = 8192
_MOST_COMPARED = 4_000_000
"""Pairs of lines; comparing more takes minutes where many lines are alike."""
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class NotTextError(ValueError):
    """The bytes are no text that could be edited."""


@dataclass(frozen=True)
class SourceText:
    """Lines without their endings, and how to write them back."""

    lines: tuple[str, ...]
    endings: tuple[str, ...]
    """Of each line; the last one's is empty when the file doesn't end with a newline."""
    encoding: str = "utf-8"
    bom: bytes = b""

    @classmethod
    def decode(cls, data: bytes) -> SourceText:
        """Read a file's bytes.

        Raises:
            NotTextError: It is binary.
        """
        bom, encoding = next(((mark, name) for mark, name in _BOMS if data.startswith(mark)), (b"", ""))
        body = data[len(bom) :]
        if not encoding:
            if b"\x00" in body[:_SNIFFED_BYTES]:
                raise NotTextError("binary")
            encoding = _guess(body)
        try:
            text = body.decode(encoding)
        except UnicodeDecodeError as error:
            raise NotTextError("binary") from error
        if "\x00" in text:
            raise NotTextError("binary")
        lines, endings = _split(text)
        return cls(lines, endings, encoding, bom)

    @property
    def text(self) -> str:
        """The text as models see it: lines that end with a newline each."""
        return "".join(f"{line}\n" for line in self.lines)

    def with_lines(self, lines: Sequence[str]) -> SourceText:
        """The same file with other lines; every line that stays keeps its own ending, new ones get the usual one."""
        usual = self._usual_ending()
        endings = self._endings_of(lines, usual)
        if endings:
            unterminated = bool(self.endings) and self.endings[-1] == ""
            endings = [ending or usual for ending in endings]
            if unterminated:
                endings[-1] = ""
        return SourceText(tuple(lines), tuple(endings), self.encoding, self.bom)

    def _endings_of(self, lines: Sequence[str], usual: str) -> list[str]:
        if not {*self.endings} - {usual, ""}:
            return [usual] * len(lines)
        # What is the same at both ends needs no comparison: an edit touches a few lines of a file that may be long.
        head = _common_start(self.lines, lines)
        tail = _common_start(self.lines[head:][::-1], lines[head:][::-1])
        old_end, new_end = len(self.lines) - tail, len(lines) - tail
        middle = [usual] * (new_end - head)
        if (old_end - head) * len(middle) <= _MOST_COMPARED:
            matcher = difflib.SequenceMatcher(None, self.lines[head:old_end], lines[head:new_end], autojunk=False)
            for same in matcher.get_matching_blocks():
                at = head + same.a
                middle[same.b : same.b + same.size] = self.endings[at : at + same.size]
        return [*self.endings[:head], *middle, *self.endings[old_end:]]

    def encode(self) -> bytes:
        """The file's bytes.

        Raises:
            NotTextError: The text holds characters that the file's encoding doesn't have.
        """
        text = "".join(line + ending for line, ending in zip(self.lines, self.endings, strict=True))
        try:
            return self.bom + text.encode(self.encoding)
        except UnicodeEncodeError as error:
            raise NotTextError(
                f"the file is {self.encoding}, which has no {text[error.start : error.end]!r}"
            ) from error

    def _usual_ending(self) -> str:
        counted = [ending for ending in self.endings if ending]
        return max(sorted(set(counted)), key=counted.count) if counted else "\n"


def _common_start(one: Sequence[str], other: Sequence[str]) -> int:
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def split_lines(text: str) -> tuple[str, ...]:
    """Lines of a model's text, whatever ends them."""
    return _split(text)[0]


def _split(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    found = [match.groups() for match in _LINE.finditer(text)]
    if found and found[-1] == ("", ""):
        found.pop()  # what follows the last ending, or an empty text
    return tuple(line for line, _ in found), tuple(ending for _, ending in found)


def _guess(body: bytes) -> str:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        declared = _CODING.search(b"\n".join(body.split(b"\n", 2)[:2]))
        if declared is not None:
            try:
                return codecs.lookup(declared[1].decode("ascii")).name
            except LookupError:
                pass
        return "latin-1"  # gives every byte back as it was
    return "utf-8"
