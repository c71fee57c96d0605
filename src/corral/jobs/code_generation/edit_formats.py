"""Reading edits out of a model's text: search/replace blocks, a unified diff, whole files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from corral.jobs.code_generation.edits import DeleteFile, Edit, RenameFile, SearchReplace, WholeFile
from corral.jobs.code_generation.payload import EditFormat
from corral.jobs.code_generation.source_text import split_lines

_SEARCH = re.compile(r"^\s*<{5,9}\s*(?:SEARCH|ORIGINAL)\b.*$", re.IGNORECASE)
_DIVIDER = re.compile(r"^\s*={5,9}\s*$")
_REPLACE = re.compile(r"^\s*>{5,9}\s*(?:REPLACE|UPDATED)\b.*$", re.IGNORECASE)
_FENCE = re.compile(r"^\s*(`{3,}|~{3,})(.*)$")
_HUNK = re.compile(r"^@@.*@@|^@@\s*$")
_PATH_LINE = re.compile(
    r"^[\s#*`>\-]*(?:file(?:name)?|path)?\s*:?\s*[`*\"']*([\w@+./\\-]*[\w-])[`*\"']*\s*:?[\s*`]*$", re.IGNORECASE
)

_LONGEST_PATH_LINE = 300


class FormatError(ValueError):
    """The text is no edit in the expected format; the message is for the model."""


def parse_edits(text: str, form: EditFormat) -> list[Edit]:
    """All edits of an answer, in order; none when it holds none.

    Raises:
        FormatError: It begins an edit that can't be read.
    """
    if form is EditFormat.SEARCH_REPLACE:
        return list(_search_replace(text))
    if form is EditFormat.UNIFIED_DIFF:
        return list(_unified_diff(text))
    return list(_whole_files(text))


def holds_edits(text: str) -> EditFormat | None:
    """The format of the edits that a text seems to hold."""
    lines = list(split_lines(text))
    if any(_SEARCH.match(line) for line in lines):
        return EditFormat.SEARCH_REPLACE
    if any(_HUNK.match(line) for line in lines) and any(line.startswith("+++ ") for line in lines):
        return EditFormat.UNIFIED_DIFF
    return None


# --- search/replace blocks


def _search_replace(text: str) -> Iterator[SearchReplace]:
    lines = list(split_lines(text))
    path: str | None = None
    at = 0
    while at < len(lines):
        if not _SEARCH.match(lines[at]):
            at += 1
            continue
        path = _path_above(lines, at) or path
        if path is None:
            raise FormatError("a SEARCH block has no file path on the line above it")
        end = next((n for n in range(at + 1, len(lines)) if _REPLACE.match(lines[n]) or _SEARCH.match(lines[n])), None)
        if end is None or not _REPLACE.match(lines[end]):
            raise FormatError(f"{path}: a SEARCH block does not end with >>>>>>> REPLACE")
        body = lines[at + 1 : end]
        dividers = [n for n, line in enumerate(body) if _DIVIDER.match(line)]
        if not dividers:
            raise FormatError(f"{path}: a SEARCH block has no ======= between the old and the new lines")
        if len(dividers) > 1:
            raise FormatError(f"{path}: a SEARCH block has several lines of =======, so the parts can't be told apart")
        old, new = body[: dividers[0]], body[dividers[0] + 1 :]
        yield SearchReplace(path=path, search=_joined(old), replace=_joined(new))
        at = end + 1


def _path_above(lines: list[str], at: int) -> str | None:
    for line in reversed(lines[max(0, at - 3) : at]):
        if _REPLACE.match(line):
            return None
        if not line.strip() or _FENCE.match(line):
            # ```python path/to/file.py
            found = _FENCE.match(line)
            told = found[2].split() if found else []
            if told and "." in told[-1]:
                return told[-1].strip("`*\"'")
            continue
        match = _PATH_LINE.match(line) if len(line) < _LONGEST_PATH_LINE else None
        return match[1] if match else None
    return None


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


# --- unified diff


def _unified_diff(text: str) -> Iterator[Edit]:
    if "GIT binary patch" in text or re.search(r"^Binary files ", text, re.MULTILINE):
        raise FormatError("binary files can't be edited")
    lines = _unfenced(list(split_lines(text)))
    old = new = renamed = None
    at = 0
    while at < len(lines):
        line = lines[at]
        if line.startswith("rename from "):
            renamed = line.removeprefix("rename from ").strip()
        elif line.startswith("rename to ") and renamed is not None:
            yield RenameFile(path=renamed, to=line.removeprefix("rename to ").strip())
            renamed = None
        elif line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            old, new = _diff_path(line[4:], "a/"), _diff_path(lines[at + 1][4:], "b/")
            if new is None and old is not None:
                yield DeleteFile(path=old)
            at += 1
        elif _HUNK.match(line):
            body, at = _hunk_body(lines, at + 1)
            if new is None and old is None:
                raise FormatError("a hunk has no --- and +++ lines above it that name its file")
            if new is not None:
                yield _hunk(body, old, new)
            continue
        at += 1


def _unfenced(lines: list[str]) -> list[str]:
    """What stands between the fence above the diff and the last one like it: the diff itself may hold fences."""
    begin = next((at for at, line in enumerate(lines) if line.startswith(("--- ", "diff --git "))), 0)
    opened = next((at for at in range(begin - 1, -1, -1) if _FENCE.match(lines[at])), None)
    found = _FENCE.match(lines[opened]) if opened is not None else None
    if found is None:
        return lines
    closed = next((at for at in range(len(lines) - 1, begin, -1) if lines[at].strip() == found[1]), len(lines))
    return lines[begin:closed]


def _diff_path(told: str, prefix: str) -> str | None:
    path = told.partition("\t")[0].strip().strip('"')
    return None if path == "/dev/null" else path.removeprefix(prefix)


def _hunk_body(lines: list[str], at: int) -> tuple[list[str], int]:
    body: list[str] = []
    while at < len(lines):
        line = lines[at]
        if _HUNK.match(line) or line.startswith("diff --git "):
            break
        if line.startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            break
        body.append(line)
        at += 1
    return body, at


def _hunk(body: list[str], old: str | None, new: str) -> Edit:
    search: list[str] = []
    replace: list[str] = []
    for line in body:
        if line.startswith("\\"):
            continue  # "No newline at end of file": the file's own last newline decides
        if line.startswith("+"):
            replace.append(line[1:])
        elif line.startswith("-"):
            search.append(line[1:])
        else:
            # A context line; models forget its leading space, above all on blank lines.
            told = line.removeprefix(" ")
            search.append(told)
            replace.append(told)
    if old is None:
        return WholeFile(path=new, content=_joined(replace))
    if not any(line.strip() for line in search):
        raise FormatError(f"{new}: a hunk has no line of context, so its place can't be told")
    return SearchReplace(path=new, search=_joined(search), replace=_joined(replace))


# --- whole files


def _whole_files(text: str) -> Iterator[WholeFile]:
    lines = list(split_lines(text))
    at = 0
    while at < len(lines):
        opened = _FENCE.match(lines[at])
        if not opened:
            at += 1
            continue
        mark = opened[1]
        end = next((n for n in range(at + 1, len(lines)) if lines[n].strip() == mark), None)
        path = _path_above(lines, at)
        told = opened[2].split()
        if path is None and told and "." in told[-1]:
            path = told[-1]
        if path is not None:
            if end is None:
                raise FormatError(f"{path}: the file's code block is not closed; was the answer cut off?")
            yield WholeFile(path=path, content=_joined(lines[at + 1 : end]))
        at = (end if end is not None else len(lines)) + 1
